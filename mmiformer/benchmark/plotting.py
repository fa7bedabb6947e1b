"""The picture of a comparison: latency against published accuracy."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402  The backend must be chosen first.
from matplotlib import ticker  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

from mmiformer.models.backbones import FAMILIES  # noqa: E402

# Ours first, in a colour that no peer has. The others are Okabe and Ito's and darker kin of them.
_COLOURS = (
    *('#d1495b', '#0072b2', '#009e73', '#e69f00', '#7b4fa3', '#56b4e9', '#8c564b', '#cc79a7', '#5b6770'),
    *('#7a9e1f', '#17becf', '#b07d2b'),
)
_MARKERS = 'osD^vPX<>pHd'
_FIRST = [family.title for family in FAMILIES]
Styles = dict[str, tuple[str, str]]  # Colour and marker by family.


@dataclass(frozen=True)
class Point:
    """A network in the picture.

    Attributes:
        name: What is written beside it.
        family: What line it is on.
        latency: Milliseconds.
        accuracy: Percent.
        panel: Title of the axes that it belongs on.
        hollow: Whether its marker is hollow, for another kind of training. Defaults to False.
    """

    name: str
    family: str
    latency: float
    accuracy: float
    panel: str
    hollow: bool = False


def short_name(name: str, family: str) -> str:
    """A size of a family as it is written beside its point: ``timm/repvit_m1_0`` is ``M1.0``."""
    family = family.partition(' ')[0]
    rest = name.removeprefix('timm/').lower().removeprefix(family.lower()).removeprefix('_')
    if not rest:
        return family
    rest = re.sub(r'(?<=\d)_(?=\d)', '.', rest).replace('_', ' ')
    return rest if re.search('[a-z]{4}', rest) else rest.upper()


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those that no other is both faster and more accurate than, the fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def plot_latency(points: Sequence[Point], out: Path, accuracy: str, note: str = '') -> None:
    """Draws latency against accuracy: a line for each family and training, and the Pareto front.

    Args:
        points: The networks; each panel becomes axes of its own, one below the other.
        out: Picture to write.
        accuracy: What the accuracy is, for the axis.
        note: Written below, e.g. machine and date. Defaults to nothing.
    """
    panels = list(dict.fromkeys(p.panel for p in points))
    found = dict.fromkeys(p.family for p in points)
    families = [f for f in _FIRST if f in found] + [f for f in found if f not in _FIRST]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9.6, 5.8 * len(panels) + 0.5), squeeze=False, layout='constrained', dpi=110
    )
    styles = {
        family: (_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        for number, family in enumerate(families)
    }
    for ax, panel in zip(axes[:, 0], panels, strict=True):
        _plot_panel(ax, [p for p in points if p.panel == panel], styles)
        ax.set(title=panel, xlabel='latency (ms, log scale)', ylabel=accuracy)
    if note:
        figure.supxlabel(note, fontsize=8, color='#555555')
    figure.draw_without_rendering()  # The layout is settled; only then are there places for labels.
    figure.set_layout_engine('none')
    for ax, panel in zip(axes[:, 0], panels, strict=True):
        place_labels(ax, [p for p in points if p.panel == panel], styles)
    figure.savefig(out)  # At the resolution that the labels were placed at.
    plt.close(figure)


def _plot_panel(ax: Axes, points: Sequence[Point], styles: Styles) -> None:
    points = sorted(points, key=lambda p: p.latency)
    for family, (colour, marker) in styles.items():
        main, label = family in _FIRST, family
        for hollow in (False, True):  # Other training is another line.
            own = [p for p in points if p.family == family and p.hollow is hollow]
            if own:
                ax.plot(
                    [p.latency for p in own],
                    [p.accuracy for p in own],
                    color=colour,
                    marker=marker,
                    markersize=9 if main else 7.5,
                    markerfacecolor='white' if hollow else colour,
                    markeredgewidth=1.6,
                    linewidth=2.6 if main else 1.5,
                    zorder=3 if main else 2,
                    label=label,
                )
                label = ''  # Once in the legend.
    front = pareto_front(points)
    # As steps: between two networks there is nothing to be had but the slower one's accuracy, later.
    ax.plot(
        np.repeat([p.latency for p in front], 2)[1:],
        np.repeat([p.accuracy for p in front], 2)[:-1],
        color='#999999',
        linestyle=(0, (4, 3)),
        linewidth=1.2,
        zorder=1,
        label='Pareto front',
    )
    if any(p.hollow for p in points):
        ax.plot([], [], 'o', color='#555555', markerfacecolor='white', label='with a teacher')
    ax.legend(fontsize=9, loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False)
    ax.set_xscale('log')
    ax.margins(0.08)
    # As plain numbers, and enough of them for narrow ranges.
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    ax.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.grid(color='#e6e6e6', linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[['top', 'right']].set_visible(False)


_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7), (0.7, -0.7)])


def place_labels(ax: Axes, points: Sequence[Point], styles: Styles) -> None:
    """Writes the names beside their points, so that none overlaps another, a point, or the frame.

    Each name takes, of places around its point, the one with least overlap with what is there already; one
    that has to stand further off is joined to its point by a thin line.

    Args:
        ax: Axes whose limits and layout are settled.
        points: The networks on it.
        styles: Colour and marker of each family.
    """
    scale = ax.figure.dpi / 72
    centres = ax.transData.transform([(p.latency, p.accuracy) for p in points])
    taken = [Bbox([centre - 7 * scale, centre + 7 * scale]) for centre in centres]  # A marker with some air.
    drawn = [line.get_path() for line in ax.lines]
    ink = np.concatenate(
        [path.transformed(ax.transData).interpolated(40).vertices for path in drawn if len(path)]
    )

    def cost(box: Bbox) -> float:
        inside = ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1)
        return 1000 * (box.count_overlaps(taken) + (not inside)) + 3 * box.count_contains(ink)

    # From the most crowded to the loneliest, which find a place anywhere.
    crowds = (abs(centres[:, None] - centres) < (90, 45)).all(axis=2).sum(axis=1)
    for index in np.argsort(-crowds, kind='stable'):
        point, centre = points[index], centres[index]
        label = ax.annotate(
            point.name,
            (point.latency, point.accuracy),
            (0, 0),
            textcoords='offset pixels',
            color=styles[point.family][0],
            fontsize=10.5,
            zorder=6,
            path_effects=[withStroke(linewidth=3, foreground='white')],
        )
        size = label.get_window_extent().size
        places = []
        for distance, direction in itertools.product((9, 15, 22, 32, 44), _DIRECTIONS):
            # The text's nearest side or corner is so many points away, in whole pixels: off them, letters are
            # drawn uneven.
            corner = np.round(centre + distance * scale * direction - size * (1 - direction) / 2)
            box = Bbox([corner, corner + size])
            places.append((cost(box) + distance, distance, box))
        _, distance, box = min(places, key=lambda place: place[0])
        label.set_position(box.min - centre)
        if distance > 15:
            middle = box.get_points().mean(axis=0) - centre
            line = dict(arrowstyle='-', color='#bbbbbb', linewidth=0.8, shrinkA=8, shrinkB=5)
            ax.annotate('', label.xy, middle, textcoords='offset pixels', arrowprops=line, zorder=1)
        taken.append(box.padded(4))
