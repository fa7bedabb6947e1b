"""Measured beside published: rows, and how they are written and drawn."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmiformer.tasks import MAIN_METRICS, METRICS
from mmiformer.utils.files import atomic_write
from mmiformer.zoo.markdown import markdown_table

_PUBLISHED, _MEASURED, _ELSEWHERE = '#5b6770', '#d1495b', '#e69f00'


@dataclass
class Row:
    """A row of the table: what was published, and what came of measuring it.

    Attributes:
        name: Of the config, or of the network where there is no config.
        title: For people.
        published: Percent by metric.
        status: ``'pending'``, ``'measured'``, ``'failed'``, ``'missing'``: no checkpoint; ``'published'``: no
            config.
        measured: Percent by metric.
        comparable: Whether it was measured on all images of the official set, as published.
        released: Whether the weights are the released ones, by their name, else of a run of one's own.
        remarks: What failed or is missing, and why figures may differ.
        details: Checkpoint, its SHA-256, number of images, seconds, versions, machine.
    """

    name: str
    title: str
    published: dict[str, float]
    status: str
    measured: dict[str, float] = field(default_factory=dict)
    comparable: bool = False
    released: bool = False
    remarks: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> list[str]:
        """What is published or measured, in the order of :data:`METRICS`."""
        return [metric for metric in METRICS if metric in self.published or metric in self.measured]

    def difference(self, metric: str) -> float | None:
        """Measured less published, in points; None where one of them is missing."""
        if metric not in self.published or metric not in self.measured:
            return None
        return self.measured[metric] - self.published[metric]

    def tolerance(self, metric: str) -> float:
        """How far apart they may be, in points."""
        return METRICS[metric].tolerance if self.released else METRICS[metric].run_tolerance

    def within(self, metric: str) -> bool | None:
        """Whether they are no further apart; None where that cannot be said."""
        difference = self.difference(metric)
        if difference is None or not self.comparable:
            return None
        # Figures of one digit are apart by whole tenths, whatever floating point says.
        return abs(difference) <= self.tolerance(metric) + 1e-9


def write(rows: Sequence[Row], folder: Path, command: str, circumstances: str) -> list[Path]:
    """Writes ``table.md``, ``table.json`` and, where anything has figures, ``table.png``.

    Rows that are in the folder's table already stay in it, replaced where they are among the given ones.

    Args:
        rows: The table, or a part of it.
        folder: Where to; it exists.
        command: What made it.
        circumstances: Date, versions and machine.

    Returns:
        The files.
    """
    page, data, picture = (folder / f'table.{suffix}' for suffix in ('md', 'json', 'png'))
    rows = _with_former(rows, data)
    records = []
    for row in rows:
        differences = {
            m: dict(difference=row.difference(m), tolerance=row.tolerance(m), within=row.within(m))
            for m in row.metrics()
        }
        records.append(dict(asdict(row), comparison=differences))
    content = dict(command=command, circumstances=circumstances, rows=records)
    atomic_write(page, markdown(rows) + f'\n`{command}`\n\n{circumstances}\n')
    atomic_write(data, json.dumps(content, indent=2) + '\n')
    if any(row.metrics() for row in rows):
        plot(rows, picture, circumstances)
        return [page, data, picture]
    return [page, data]


def _with_former(rows: Sequence[Row], data: Path) -> list[Row]:
    try:
        records = json.loads(data.read_text(encoding='utf-8'))['rows']
    except FileNotFoundError:
        return list(rows)
    # A row without config has its name in two tasks.
    given = {(row.name, *row.published): row for row in rows}
    names = {attribute.name for attribute in fields(Row)}
    former = [Row(**{name: record[name] for name in names}) for record in records]
    kept = [given.pop((row.name, *row.published), row) for row in former]
    return [*kept, *given.values()]


def markdown(rows: Sequence[Row]) -> str:
    """The table as a page: a line for each metric of each row, then the remarks."""
    heads = 'config backbone metric published measured difference tolerance within images seconds weights'
    lines = []
    for row in rows:
        file, digest = (row.details.get(key) for key in ('file', 'sha256'))
        weights = f'{file} ({digest[:8]})' if file and digest else file or row.status
        images, seconds = row.details.get('images'), row.details.get('seconds')
        ends = [images, None if seconds is None else f'{seconds:.0f}', weights]
        for number, metric in enumerate(row.metrics() or [None]):
            first = number == 0
            start = [f'`{row.name}`', row.title] if first else ['', '']
            lines.append([*start, *_cells(row, metric), *(ends if first else ['', '', ''])])
    remarks = [f'- `{row.name}`: {remark}\n' for row in rows for remark in row.remarks]
    return markdown_table(heads.split(), lines) + ''.join(['\n', *remarks] if remarks else [])


def _cells(row: Row, metric: str | None) -> list[str]:
    if metric is None:
        return ['-', 'not published', '-', '-', '-', '-']
    difference, within = row.difference(metric), row.within(metric)
    measured = row.measured.get(metric)
    return [
        METRICS[metric].title,
        f'{row.published[metric]:g}' if metric in row.published else 'not published',
        row.status if measured is None else f'{measured:.2f}',
        '-' if difference is None else f'{difference:+.2f}',
        '-' if difference is None else f'{row.tolerance(metric):g}',
        {True: 'yes', False: '**no**', None: '-'}[within],
    ]


def plot(rows: Sequence[Row], out: Path, note: str = '') -> None:
    """Draws published and measured side by side, axes for each metric, a line for each row.

    Args:
        rows: The table.
        out: Picture to write.
        note: Written below. Defaults to nothing.
    """
    metrics = [metric for metric in MAIN_METRICS if any(metric in row.metrics() for row in rows)]
    panels = [(metric, [row for row in rows if metric in row.metrics()]) for metric in metrics]
    height = sum(0.34 * len(own) + 1.3 for _, own in panels) + 0.4
    figure = Figure(figsize=(9.6, height), layout='constrained', dpi=110)
    ratios = [len(own) + 3 for _, own in panels]
    axes = figure.subplots(len(panels), 1, height_ratios=ratios, squeeze=False)
    for ax, (metric, own) in zip(axes[:, 0], panels, strict=True):
        _plot_panel(ax, metric, own)
    figure.supxlabel(textwrap.fill(note, 140), fontsize=7, color='#555555', parse_math=False)
    figure.savefig(out)


def _plot_panel(ax: Axes, metric: str, rows: Sequence[Row]) -> None:
    for y, row in enumerate(rows):
        published, measured = row.published.get(metric), row.measured.get(metric)
        colour = _MEASURED if row.comparable else _ELSEWHERE
        if published is not None and measured is not None:
            ax.plot([published, measured], [y, y], color=colour, linewidth=1.4, zorder=2)
        if published is not None:
            tolerance = row.tolerance(metric)
            ax.barh(y, 2 * tolerance, left=published - tolerance, height=0.7, color='#e3e8ee', zorder=1)
            ax.plot(published, y, 'o', markersize=7, color=_PUBLISHED, markerfacecolor='white', zorder=3)
        if measured is not None:
            ax.plot(measured, y, 'D', markersize=6, color=colour, zorder=4)
        elif published is not None and row.status != 'published':
            style: dict[str, Any] = dict(fontsize=8, color='#b00020' if row.status == 'failed' else '#777777')
            ax.annotate(row.status, (published, y), (9, 0), textcoords='offset points', va='center', **style)
    shown = {row.comparable for row in rows if metric in row.measured}
    for marker, colour, label, is_shown in (
        ('o', _PUBLISHED, 'published, with tolerance', any(metric in row.published for row in rows)),
        ('D', _MEASURED, 'measured', True in shown),
        ('D', _ELSEWHERE, 'measured, not to be compared', False in shown),
    ):
        if is_shown:
            face = 'white' if marker == 'o' else colour
            ax.plot([], [], marker, color=colour, markerfacecolor=face, label=label)
    ax.legend(
        fontsize=8, frameon=False, loc='lower left', bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2
    )
    ax.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=9)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(METRICS[metric].label)
    ax.use_sticky_edges = False  # Else the first tolerance ends at the frame.
    ax.margins(x=0.06)
    ax.grid(axis='x', color='#e6e6e6', linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[['top', 'right']].set_visible(False)
