"""The losses and evaluations of a run, as a picture and a table."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

# What mmengine writes beside the metrics of an evaluation.
_NO_METRICS = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory'}


@dataclass
class History:
    """What mmengine recorded of the runs in a work dir, by name: pairs of step and value.

    Attributes:
        losses: Of the training, and of the validation images if computed; the steps are iterations.
        metrics: Of the evaluations, without those that are undefined, such as COCO's for objects of a size
            that no image has.
        unit: Of the evaluations' steps, ``'epoch'`` or ``'iteration'``.
    """

    losses: dict[str, list[tuple[int, float]]]
    metrics: dict[str, list[tuple[int, float]]]
    unit: str


def read_history(work_dir: Path) -> History:
    """Reads mmengine's ``*/vis_data/scalars.json``, one JSON object a line, of the runs in a work dir.

    A resumed run replaces what came after its checkpoint; one that was not resumed replaces all.
    """
    losses: list[tuple[int, str, float]] = []
    metrics: list[tuple[int, str, float]] = []
    unit = 'iteration'
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        # A killed run may leave half a line at the end.
        records = [json.loads(x) for x in file.read_text().splitlines() if x.endswith('}')]
        if any('epoch' in record for record in records):
            unit = 'epoch'
        record = file.parents[1] / 'run.json'  # Not of runs of mmdet's own tools.
        start = json.loads(record.read_text()) if record.is_file() else {}
        iteration = start.get('iteration', 0)
        losses = [point for point in losses if point[0] <= iteration]
        metrics = [point for point in metrics if point[0] <= start.get(unit, 0)]
        for record in records:
            step = record['step']
            if 'loss' in record:
                iteration = step
                losses += ((step, key, value) for key, value in record.items() if 'loss' in key)
                continue
            if 'val_loss' in record:  # Its step may be an epoch.
                losses.append((max(step, iteration), 'val_loss', record['val_loss']))
            for key, value in record.items():
                if key not in _NO_METRICS and isinstance(value, int | float) and value >= 0:
                    metrics.append((step, key, value))
    return History(_by_name(losses), _by_name(metrics), unit)


def _by_name(points: list[tuple[int, str, float]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for step, name, value in points:
        found[name][step] = value  # A resumed run may repeat the evaluation of its checkpoint.
    return {name: list(values.items()) for name, values in found.items()}


def evaluation_table(history: History, keys: Sequence[str]) -> Table | None:
    """The evaluations of a run, the best by the first metric marked; None without any.

    Args:
        history: The result of :func:`read_history`.
        keys: The metrics to show, if the run has them.
    """
    metrics = {key: dict(history.metrics[key]) for key in keys if key in history.metrics}
    if not metrics:
        return None
    by, first = next(iter(metrics.items()))
    best = (min if 'loss' in by else max)(first, key=lambda step: first[step])
    table = Table(history.unit, *metrics, '')
    for step in first:
        values = (f'{values[step]:.4g}' if step in values else '-' for values in metrics.values())
        table.add_row(str(step), *values, 'best' if step == best else '')
    return table


def plot_curves(history: History, out: Path) -> bool:
    """Draws the losses over the iterations, and the metrics of the evaluations.

    Args:
        history: The result of :func:`read_history`.
        out: Picture to write.

    Returns:
        Whether there was anything to draw.
    """
    losses = history.losses
    metrics = {name: points for name, points in history.metrics.items() if name not in losses}
    if not losses and not metrics:
        return False
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
        axes[1].set(title='evaluations', xlabel=history.unit, ylim=(0, None))
    for axis in (axis for axis in axes if axis.lines):
        axis.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    return True
