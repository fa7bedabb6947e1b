"""Measured figures beside the published ones: the rows of the table, its files and its picture."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmiformer.tasks import MAIN_METRICS, METRICS
from mmiformer.utils.files import atomic_write
from mmiformer.zoo.markdown import markdown_table


@dataclass
class Row:
    """A row of the table.

    Attributes:
        name: Name of the config, or of the network without a config.
        title: Name in tables.
        published: Published accuracies in percent, by metric.
        status: ``'pending'``, ``'measured'``, ``'failed'``, ``'missing'`` (no checkpoint) or ``'published'``
            (no config).
        measured: Measured accuracies in percent, by metric.
        comparable: Whether they were measured as published, on all images of the official set.
        released: Whether the weights are a released file, judged by its name.
        remarks: What failed or is missing, and why figures may differ.
        details: Checkpoint with SHA-256, number of images, seconds, machine.
    """

    name: str
    title: str
    published: dict[str, float]
    status: str = 'pending'
    measured: dict[str, float] = field(default_factory=dict)
    comparable: bool = False
    released: bool = False
    remarks: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> list[str]:
        """Keys of :data:`METRICS` that are published or measured."""
        return [metric for metric in METRICS if metric in self.published or metric in self.measured]

    def compare(self, metric: str) -> dict[str, Any]:
        """Compares a measured figure with the published one.

        Returns:
            ``difference``: measured minus published, in points, None if one of them is missing;
            ``tolerance``: the largest expected difference; ``within``: whether the difference is within the
            tolerance, None if the figures are not comparable.
        """
        tolerance = METRICS[metric].tolerance if self.released else METRICS[metric].run_tolerance
        difference = within = None
        if metric in self.published and metric in self.measured:
            difference = self.measured[metric] - self.published[metric]
            if self.comparable:  # Rounding errors aside: figures have one digit.
                within = abs(difference) <= tolerance + 1e-9
        return dict(difference=difference, tolerance=tolerance, within=within)


def write(rows: Sequence[Row], folder: Path, command: str, environment: str) -> list[Path]:
    """Writes ``table.md``, ``table.json`` and, if there are any figures, ``table.png``.

    Keeps the other rows of a table that is already in the folder.

    Args:
        rows: The table, or a part of it.
        folder: An existing folder.
        command: The command that measured.
        environment: Date, versions and machine.

    Returns:
        The written files.
    """
    page, data, picture = (folder / f'table.{suffix}' for suffix in ('md', 'json', 'png'))
    if data.is_file():
        former = json.loads(data.read_text(encoding='utf-8'))['rows']
        rows = [*(Row(**{k: v for k, v in row.items() if k != 'comparison'}) for row in former), *rows]
    # A network without a config has a row of the same name in two tasks.
    rows = list({(row.name, *row.published): row for row in rows}.values())
    records = [
        dict(asdict(row), comparison={metric: row.compare(metric) for metric in row.metrics()})
        for row in rows
    ]
    content = dict(command=command, environment=environment, rows=records)
    atomic_write(page, f'{markdown(rows)}\n\n`{command}`\n\n{environment}\n')
    atomic_write(data, json.dumps(content, indent=2) + '\n')
    if not any(row.metrics() for row in rows):
        return [page, data]
    plot(rows, picture, environment)
    return [page, data, picture]


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, a line for each metric of each row, and the remarks."""
    lines = [_line(row, metric) for row in rows for metric in row.metrics() or ['']]
    remarks = [f'\n- `{row.name}`: {remark}' for row in rows for remark in row.remarks]
    return markdown_table(lines) + ''.join(remarks)


def _line(row: Row, metric: str) -> dict[str, Any]:
    compared = row.compare(metric) if metric else {}
    difference = compared.get('difference')
    file, digest = row.details.get('file'), row.details.get('sha256', '')
    return dict(
        config=f'`{row.name}`',
        backbone=row.title,
        metric=METRICS[metric].title if metric else None,
        published=f'{row.published[metric]:g}' if metric in row.published else 'not published',
        measured=f'{row.measured[metric]:.2f}' if metric in row.measured else row.status,
        difference=None if difference is None else f'{difference:+.2f}',
        tolerance=None if difference is None else compared['tolerance'],
        within={True: 'yes', False: '**no**', None: None}[compared.get('within')],
        images=row.details.get('images'),
        seconds=row.details.get('seconds'),
        weights=f'{file} ({digest[:8]})' if file else row.status,
    )


def plot(rows: Sequence[Row], out: Path, note: str = '') -> None:
    """Draws published and measured figures side by side, a panel for each metric and a line for each row.

    Args:
        rows: The table.
        out: Picture to write.
        note: Text below the panels. Defaults to nothing.
    """
    metrics = [metric for metric in MAIN_METRICS if any(metric in row.metrics() for row in rows)]
    panels = [[row for row in rows if metric in row.metrics()] for metric in metrics]
    heights = [len(panel) + 3 for panel in panels]
    figure = Figure(figsize=(9.6, 0.34 * sum(heights) + 0.7), layout='constrained', dpi=110)
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
    for ax, metric, panel in zip(axes[:, 0], metrics, panels, strict=True):
        _plot_panel(ax, metric, panel)
    figure.supxlabel(textwrap.fill(note, 140), fontsize=7, color='#555555', parse_math=False)
    figure.savefig(out)


def _plot_panel(ax: Axes, metric: str, rows: Sequence[Row]) -> None:
    lines = range(len(rows))
    published = [row.published.get(metric, nan) for row in rows]
    tolerances = [row.compare(metric)['tolerance'] for row in rows]
    style: dict[str, Any] = dict(color='#5b6770', markerfacecolor='white', ecolor='#d5dbe2', elinewidth=7)
    ax.errorbar(published, lines, xerr=tolerances, fmt='o', label='published, with tolerance', **style)
    for comparable, colour in ((True, '#d1495b'), (False, '#e69f00')):
        measured = [row.measured.get(metric, nan) if row.comparable is comparable else nan for row in rows]
        label = 'measured' if comparable else 'measured, not comparable'
        ax.plot(measured, lines, 'D', color=colour, label=label)
    titles = [
        row.title if row.measured or row.status == 'published' else f'{row.title} ({row.status})'
        for row in rows
    ]
    ax.set_yticks(lines, titles, fontsize=9)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(METRICS[metric].label)
    ax.margins(x=0.06)
    ax.grid(axis='x', color='#e6e6e6', linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc='lower left', bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
