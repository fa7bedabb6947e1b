"""Pictures of a run: its curves, and its predictions beside the truth."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import mmcv
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import VISUALIZERS

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402  The backend must be chosen first.


def build_visualizer(cfg: Config, dataset_meta: dict[str, Any]) -> Any:
    """A visualizer of the config's kind that writes nothing by itself."""
    visualizer = VISUALIZERS.build(dict(type=cfg.visualizer.type, name='mmiformer', vis_backends=None))
    visualizer.dataset_meta = dataset_meta
    return visualizer


def plot_curves(work_dir: Path, out: Path) -> bool:
    """Draws the losses over the iterations and the last evaluation, resumed runs as one.

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
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in records:
        for key, value in record.items():
            if isinstance(value, (int, float)) and ('loss' in key or '/' in key):
                series[key].append((record['step'], value))
    losses = {k: v for k, v in series.items() if 'loss' in k}
    results = {k: v for k, v in series.items() if '/' in k and any(y >= 0 for _, y in v)}
    figure, axes = plt.subplots(1, 2 if results else 1, figsize=(12 if results else 6, 4), squeeze=False)
    for name, points in losses.items():
        axes[0, 0].plot(*zip(*points, strict=True), label=name, linewidth=2.5 if name == 'loss' else 1)
    axes[0, 0].set(title='losses', xlabel='iteration', ylabel='loss', yscale='log')
    axes[0, 0].legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    if results:
        names = sorted(results)
        values = [results[name][-1][1] for name in names]
        axes[0, 1].barh(names, values)
        axes[0, 1].bar_label(axes[0, 1].containers[0], fmt='%.3f', padding=2, fontsize=8)
        axes[0, 1].set(title='last evaluation', xlim=(0, max(1.0, *values)))
        axes[0, 1].invert_yaxis()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return True


def draw_predictions(model: BaseModel, dataset: BaseDataset, cfg: Config, out: Path, count: int = 8) -> None:
    """Draws the truth and the prediction of the first images of a data set side by side.

    Args:
        model: The trained model; its mode is kept.
        dataset: Data set with a test pipeline that loads annotations.
        cfg: The config, for its kind of visualizer.
        out: Picture to write.
        count: Images to draw. Defaults to 8.
    """
    visualizer = build_visualizer(cfg, dataset.metainfo)
    training = model.training
    model.eval()
    rows = min(count, len(dataset))
    figure, axes = plt.subplots(-(-rows // 2), 2, figsize=(12, 2.6 * -(-rows // 2)), squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for index, axis in zip(range(rows), axes.flat, strict=False):
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([dataset[index]]))[0]
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        visualizer.add_datasample('prediction', image, sample, draw_gt=True, show=False, pred_score_thr=0.5)
        axis.imshow(visualizer.get_image())
        axis.set_title(f'{Path(sample.img_path).name}: truth | prediction', fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)
    model.train(training)
