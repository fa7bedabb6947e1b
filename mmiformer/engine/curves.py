"""A picture of the losses and evaluations of a run."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# What mmengine writes beside the metrics of an evaluation.
_NO_METRICS = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory'}


def plot_curves(work_dir: Path, out: Path) -> bool:
    """Draws the losses over the iterations, and the metrics of the evaluations; resumed runs are joined.

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
        # A resumed run replaces what the older one did after the checkpoint.
        start = min((r['step'] for r in newer if 'loss' in r), default=float('inf'))
        records = [r for r in records if r['step'] < start] + newer
    if not records:
        return False
    losses: dict[str, list[tuple[int, float]]] = defaultdict(list)
    metrics: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in records:
        training = 'loss' in record
        for key, value in record.items():
            if training and 'loss' in key:
                losses[key].append((record['step'], value))
            elif not training and key not in _NO_METRICS and isinstance(value, int | float) and value >= 0:
                metrics[key].append((record['step'], value))  # COCO's are -1 without such objects.
    by_epoch = any('epoch' in record for record in records if 'loss' in record)
    columns = 2 if metrics else 1
    figure = Figure(figsize=(7 * columns, 4))
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for name, points in losses.items():
        axes[0].plot(*zip(*points, strict=True), label=name, linewidth=2.5 if name == 'loss' else 1)
    axes[0].set(title='losses', xlabel='iteration', ylabel='loss', yscale='log')
    if metrics:
        for name, points in sorted(metrics.items()):
            label = f'{name} {points[-1][1]:.4g}'
            axes[1].plot(*zip(*points, strict=True), marker='o', markersize=3, label=label)
        axes[1].set(title='evaluations', xlabel='epoch' if by_epoch else 'iteration', ylim=(0, None))
    for axis in (axis for axis in axes if axis.lines):
        axis.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    return True
