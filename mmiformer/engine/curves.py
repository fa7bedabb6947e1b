"""Pictures of a run: its curves, and its predictions beside the truth."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.model import BaseModel

from mmiformer.tasks import task_of

# What mmengine writes beside the results of an evaluation.
_NO_RESULTS = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory'}


def plot_curves(work_dir: Path, out: Path) -> bool:
    """Draws the losses over the iterations and the evaluations, resumed runs as one.

    Args:
        work_dir: Folder with mmengine's ``*/vis_data/scalars.json``, one JSON object a line.
        out: Picture to write.

    Returns:
        Whether there was anything to draw.
    """
    records: list[dict[str, Any]] = []
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        # A killed run may leave half a line at the end.
        newer = [json.loads(x) for x in file.read_text().splitlines() if x.endswith('}')]
        # A run that went on from a checkpoint, or began anew, replaces what the older one did after it.
        start = min((r['step'] for r in newer if 'loss' in r), default=float('inf'))
        records = [r for r in records if r['step'] < start] + newer
    if not records:
        return False
    losses: dict[str, list[tuple[int, float]]] = defaultdict(list)
    results: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in records:
        for key, value in record.items():
            if not isinstance(value, (int, float)):
                continue
            if 'loss' in record:
                if 'loss' in key:
                    losses[key].append((record['step'], value))
            elif key not in _NO_RESULTS and value >= 0:  # COCO's metrics say -1 for "no such objects".
                results[key].append((record['step'], value))
    columns = 2 if results else 1
    figure = Figure(figsize=(7 * columns, 4))
    axes = figure.subplots(1, columns, squeeze=False)
    for name, points in losses.items():
        axes[0, 0].plot(*zip(*points, strict=True), label=name, linewidth=2.5 if name == 'loss' else 1)
    axes[0, 0].set(title='losses', xlabel='iteration', ylabel='loss', yscale='log')
    axes[0, 0].legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    if any(len(points) > 1 for points in results.values()):
        for name, points in sorted(results.items()):
            label = f'{name} {points[-1][1]:.4g}'
            axes[0, 1].plot(*zip(*points, strict=True), marker='o', markersize=3, label=label)
        axes[0, 1].set(title='evaluations', xlabel='iteration or epoch', ylim=(0, None))
        axes[0, 1].legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    elif results:
        names, values = zip(*((name, points[-1][1]) for name, points in sorted(results.items())), strict=True)
        axes[0, 1].barh(names, values)
        axes[0, 1].bar_label(axes[0, 1].containers[0], fmt='%.4g', padding=2, fontsize=8)
        axes[0, 1].set(title='evaluation', xlim=(0, 1.0 if max(values) <= 1 else 1.15 * max(values)))
        axes[0, 1].invert_yaxis()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    return True


def draw_predictions(model: BaseModel, dataset: BaseDataset, cfg: Config, out: Path, count: int = 8) -> None:
    """Draws the truth and the prediction of some images of a data set, evenly apart.

    Args:
        model: The trained model; its mode is kept.
        dataset: Data set with a test pipeline that loads annotations.
        cfg: The config.
        out: Picture to write.
        count: Images to draw. Defaults to 8.
    """
    painter = task_of(cfg).painter(cfg, dataset.metainfo)
    training = model.training
    model.eval()
    count = min(count, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int)  # Neighbours may be frames of one film.
    samples = []
    for index in indices.tolist():
        with torch.no_grad():
            samples.append(model.test_step(pseudo_collate([dataset[index]]))[0])
    model.train(training)
    rows, legend = -(-count // painter.columns), painter.legend(samples)
    height = 2.6 * rows + 0.8
    figure = Figure(figsize=(12, height))
    panels = figure.subplots(rows, painter.columns, squeeze=False)
    for axes in panels.flat:
        axes.axis('off')
    for sample, axes in zip(samples, panels.flat, strict=False):
        # As the data set itself reads it, from wherever.
        image = dataset.pipeline.transforms[0](dict(img_path=sample.img_path))['img'][..., ::-1]
        painter.panel(axes, image, sample)
    figure.tight_layout(rect=(0, 0.5 / height, 1, 1) if legend else None)
    if legend:
        figure.legend(**legend)
    figure.savefig(out, dpi=110)
