"""Plots of latency, or of what training takes, against published accuracy."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from mmiformer.models.backbones import FAMILIES

_MARKERS = 'osD^vPX<>pHd'
_OURS = [family.title for family in FAMILIES]


class Point(NamedTuple):
    """A network in a plot.

    Attributes:
        name: Label.
        family: Networks of one family are joined by a line.
        panel: Title of the axes it is drawn on.
        cost: Place on the horizontal axis.
        accuracy: Percent.
        distilled: Whether it was trained with a teacher; its marker is hollow.
        quantity: What is on the horizontal axis; quantities of one panel have separate axes.
    """

    name: str
    family: str
    panel: str
    cost: float
    accuracy: float
    distilled: bool = False
    quantity: str = 'latency (ms)'


def short_name(name: str, family: str) -> str:
    """Shortens a name to the size within its family: ``timm/repvit_m1_0`` of RepViT is ``M1.0``."""
    family = family.partition(' ')[0]
    rest = name.removeprefix('timm/').lower().removeprefix(family.lower()).lstrip('_-')
    rest = re.sub(r'(?<=\d)_(?=\d)', '.', rest).replace('_', ' ')
    return (rest if re.search('[a-z]{4}', rest) else rest.upper()) or family


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Returns the points without a cheaper and more accurate one, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def plot_costs(points: Sequence[Point], accuracy: str, note: str = '', ranked: bool = True) -> Figure:
    """Plots costs against accuracy, with the Pareto front, or against another cost.

    Args:
        points: The networks. Each quantity of a panel becomes separate axes, one below the other.
        accuracy: Label of the vertical axis.
        note: Small print below, such as machine and date. Defaults to none.
        ranked: Whether lines connect families and the Pareto front. Defaults to True; False for another cost
            on the vertical axis, which has a log scale then, too.
    """
    panels = list(dict.fromkeys((p.panel, p.quantity) for p in points))
    figure = Figure((9.6, 5.8 * len(panels) + 0.5), dpi=110, layout='constrained')
    figure.supxlabel(note, fontsize=8, color='#555555')
    families = sorted(dict.fromkeys(p.family for p in points), key=lambda family: family not in _OURS)
    markers = dict(zip(families, itertools.cycle(_MARKERS), strict=False))
    colours = {family: f'C{number}' for number, family in enumerate(families)}
    axes = dict(zip(panels, figure.subplots(len(panels), squeeze=False)[:, 0], strict=True))
    for panel, ax in axes.items():
        _draw(ax, [p for p in points if (p.panel, p.quantity) == panel], colours, markers, ranked)
        ax.set(title=panel[0], xlabel=f'{panel[1]}, log scale', ylabel=accuracy)
    figure.draw_without_rendering()  # Settles the layout, which the places of the labels depend on.
    figure.set_layout_engine('none')
    for panel, ax in axes.items():
        _label(ax, [p for p in points if (p.panel, p.quantity) == panel], colours)
    return figure


def _draw(
    ax: Axes, points: list[Point], colours: dict[str, str], markers: dict[str, str], ranked: bool
) -> None:
    points.sort(key=lambda p: p.cost)
    for family, distilled in itertools.product(colours, (False, True)):
        own = [p for p in points if (p.family, p.distilled) == (family, distilled)]
        if own:
            width, size, order = (2.6, 9, 3) if family in _OURS else (1.5, 7.5, 2)
            ax.plot(
                [p.cost for p in own],
                [p.accuracy for p in own],
                color=colours[family],
                linewidth=width if ranked else 0,
                marker=markers[family],
                markersize=size,
                markerfacecolor='white' if distilled else colours[family],
                markeredgewidth=1.6,
                zorder=order,
                label=f'{family}, with a teacher' if distilled else family,
            )
    if ranked:
        front = pareto_front(points)
        costs, accuracies = [p.cost for p in front], [p.accuracy for p in front]
        ax.step(costs, accuracies, '--', where='post', color='#999999', linewidth=1.2, label='Pareto front')
    ax.legend(fontsize=9, loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    ax.set(xscale='log', yscale='linear' if ranked else 'log')
    ax.margins(0.08)
    for axis in (ax.xaxis,) if ranked else (ax.xaxis, ax.yaxis):
        # The default locator labels powers of ten only.
        axis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axis.set_major_formatter('{x:g}')
        axis.set_minor_locator(ticker.NullLocator())
    ax.grid(color='#e6e6e6', linewidth=0.8)
    ax.set_axisbelow(True)


_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7), (0.7, -0.7)])


def _label(ax: Axes, points: list[Point], colours: dict[str, str]) -> None:
    """Writes each name at the nearest place where it overlaps no other name, no marker and not the frame."""
    pixels = ax.figure.dpi / 72  # Per point, the unit of text and markers.
    centres = ax.transData.transform([(p.cost, p.accuracy) for p in points])
    taken = [Bbox([centre - 7 * pixels, centre + 7 * pixels]) for centre in centres]
    for point, centre in zip(points, centres, strict=True):
        text = ax.annotate(
            point.name,
            (point.cost, point.accuracy),
            (0, 0),
            textcoords='offset pixels',
            color=colours[point.family],
            zorder=6,
            path_effects=[withStroke(linewidth=3, foreground='white')],
        )
        size = text.get_window_extent().size
        boxes = []
        for distance, direction in itertools.product((9, 15, 22, 32, 44), _DIRECTIONS):
            corner = np.round(centre + distance * pixels * direction - size * (1 - direction) / 2)
            boxes.append(Bbox([corner, corner + size]))
        left, right = ax.bbox.intervalx
        best = min(boxes, key=lambda box: box.count_overlaps(taken) + (box.x0 < left) + (box.x1 > right))
        text.set_position(best.min - centre)
        taken.append(best.padded(4))
