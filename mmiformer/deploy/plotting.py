"""The picture of a comparison: latency against published accuracy."""

import itertools
import math
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
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.text import Annotation  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

from mmiformer.backbones import FAMILIES  # noqa: E402

# Ours first, in a colour that no peer has. The others are Okabe and Ito's and darker kin of them.
_COLOURS = (
    '#d1495b',
    '#0072b2',
    '#009e73',
    '#e69f00',
    '#7b4fa3',
    '#56b4e9',
    '#8c564b',
    '#cc79a7',
    '#5b6770',
) + ('#7a9e1f', '#17becf', '#b07d2b')
_MARKERS = 'osD^vPX<>pHd'
_FIRST = [family.title for family in FAMILIES]


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
    families = sorted(
        dict.fromkeys(p.family for p in points),
        key=lambda family: _FIRST.index(family) if family in _FIRST else len(_FIRST),
    )
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9.6, 5.8 * len(panels) + 0.5), squeeze=False, layout='constrained', dpi=110
    )
    for ax, panel in zip(axes[:, 0], panels, strict=True):
        _plot_panel(ax, [p for p in points if p.panel == panel], families)
        ax.set(title=panel, xlabel='latency (ms, log scale)', ylabel=accuracy)
    if note:
        figure.supxlabel(note, fontsize=8, color='#555555')
    figure.draw_without_rendering()  # The layout is settled; only then are there places for labels.
    figure.set_layout_engine('none')
    for ax, panel in zip(axes[:, 0], panels, strict=True):
        place_labels(ax, [p for p in points if p.panel == panel], families)
    figure.savefig(out)  # At the resolution that the labels were placed at.
    plt.close(figure)


def _style(family: str, families: Sequence[str]) -> tuple[str, str]:
    index = families.index(family)
    return _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]


def _plot_panel(ax: Axes, points: Sequence[Point], families: Sequence[str]) -> None:
    handles = []
    for family in families:
        own = sorted((p for p in points if p.family == family), key=lambda p: p.latency)
        if not own:
            continue
        colour, marker = _style(family, families)
        main = family in _FIRST
        for hollow in (False, True):  # Other training is another line.
            ax.plot(
                [p.latency for p in own if p.hollow is hollow],
                [p.accuracy for p in own if p.hollow is hollow],
                color=colour,
                linewidth=2.6 if main else 1.5,
                zorder=3 if main else 2,
            )
        for point in own:
            ax.plot(
                point.latency,
                point.accuracy,
                marker=marker,
                markersize=9 if main else 7.5,
                color=colour,
                markerfacecolor='white' if point.hollow else colour,
                markeredgewidth=1.6,
                zorder=5 if main else 4,
            )
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=7, label=family))
    front = pareto_front(points)
    # As steps: between two networks there is nothing to be had but the slower one's accuracy, later.
    ax.step(
        [p.latency for p in front],
        [p.accuracy for p in front],
        where='post',
        color='#999999',
        linestyle=(0, (4, 3)),
        linewidth=1.2,
        zorder=1,
    )
    handles.append(Line2D([], [], color='#999999', linestyle=(0, (4, 3)), label='Pareto front'))
    if any(p.hollow for p in points):
        handles.append(
            Line2D(
                [],
                [],
                color='#555555',
                marker='o',
                markerfacecolor='white',
                linestyle='',
                label='with a teacher',
            )
        )
    ax.legend(handles=handles, fontsize=9, loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False)
    ax.set_xscale('log')
    _set_limits(ax, points)
    ax.grid(color='#e6e6e6', linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[['top', 'right']].set_visible(False)


def _set_limits(ax: Axes, points: Sequence[Point]) -> None:
    low, high = min(p.latency for p in points), max(p.latency for p in points)
    margin = max(high / low, 1.5) ** 0.08
    ax.set_xlim(low / margin, high * margin)
    bottom, top = min(p.accuracy for p in points), max(p.accuracy for p in points)
    room = max(0.08 * (top - bottom), 0.5)
    ax.set_ylim(bottom - room, top + room)
    # 1, 2, 3, 5, 7 of each decade as plain numbers; matplotlib's own leave narrow ranges without any.
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 1.5, 2, 3, 4, 5, 7)]
    ax.set_xticks(ticks, minor=False)
    ax.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xlim(low / margin, high * margin)


def place_labels(ax: Axes, points: Sequence[Point], families: Sequence[str]) -> list[Annotation]:
    """Writes the names beside their points, so that none overlaps another, a point, or the frame.

    Each name takes, of places around its point, the one with least overlap with what is there already; one
    that has to stand further off is joined to its point by a thin line.

    Args:
        ax: Axes whose limits and layout are settled.
        points: The networks on it.
        families: Of the whole picture, in their order.

    Returns:
        The labels.
    """
    pixels: dict[int, tuple[float, float]] = {
        id(p): tuple(ax.transData.transform((p.latency, p.accuracy)).tolist()) for p in points
    }
    size = 7 * ax.figure.dpi / 72  # Half of a marker with some air, in pixels.
    taken = [Bbox.from_extents(x - size, y - size, x + size, y + size) for x, y in pixels.values()]
    lines = []
    for line in itertools.product(families, (False, True)):
        own = sorted((p for p in points if (p.family, p.hollow) == line), key=lambda p: p.latency)
        lines += list(itertools.pairwise(pixels[id(p)] for p in own))
    for a, b in itertools.pairwise(pixels[id(p)] for p in pareto_front(points)):
        lines += [(a, (b[0], a[1])), ((b[0], a[1]), b)]
    ends = np.array(lines).reshape(-1, 2, 1, 2)
    along = np.linspace(0, 1, 40).reshape(-1, 1)
    ink = (ends[:, 0] * (1 - along) + ends[:, 1] * along).reshape(-1, 2)
    labels = []
    scale = ax.figure.dpi / 72
    # From the most crowded to the loneliest, which find a place anywhere.
    for point in sorted(points, key=lambda p: -_crowd(pixels, id(p))):
        label = ax.annotate(
            point.name,
            (point.latency, point.accuracy),
            (0, 0),
            textcoords='offset pixels',
            color=_style(point.family, families)[0],
            fontsize=10.5,
            zorder=6,
            path_effects=[withStroke(linewidth=3, foreground='white')],
        )
        extent = label.get_window_extent()
        x, y = pixels[id(point)]
        places = []
        for distance, (dx, dy) in itertools.product((9, 15, 22, 32, 44), _DIRECTIONS):
            # The text's nearest side or corner is so many points away.
            left = distance * scale * dx - extent.width * (1 - dx) / 2
            low = distance * scale * dy - extent.height * (1 - dy) / 2
            left, low = round(x + left) - x, round(y + low) - y  # Off whole pixels, letters are drawn uneven.
            box = Bbox.from_bounds(x + left, y + low, extent.width, extent.height)
            places.append((_overlap(box, taken, ink, ax.bbox) + distance, distance, left, low, box))
        _, distance, left, low, box = min(places, key=lambda place: place[0])
        label.set_position((left, low))
        if distance > 15:
            ax.annotate(
                '',
                (point.latency, point.accuracy),
                ((box.x0 + box.x1) / 2 - x, (box.y0 + box.y1) / 2 - y),
                textcoords='offset pixels',
                arrowprops=dict(arrowstyle='-', color='#bbbbbb', linewidth=0.8, shrinkA=8, shrinkB=5),
                zorder=1,
            )
        taken.append(box.padded(4))
        labels.append(label)
    return labels


_DIRECTIONS = [(math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in (0, 4, 2, 6, 1, 3, 5, 7)]


def _crowd(pixels: dict[int, tuple[float, float]], key: int) -> int:
    x, y = pixels[key]
    return sum(abs(x - a) < 90 and abs(y - b) < 45 for a, b in pixels.values())


def _overlap(box: Bbox, taken: Sequence[Bbox], ink: np.ndarray, frame: Bbox) -> float:
    """How bad a place is: pixels of other things in it, and of it outside of the frame."""
    cost = 0.0
    for other in taken:
        width = min(box.x1, other.x1) - max(box.x0, other.x0)
        height = min(box.y1, other.y1) - max(box.y0, other.y0)
        if width > 0 and height > 0:
            cost += 1000 + width * height
    cost += 1000 * (box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1)
    return cost + 3 * float(((ink > box.min) & (ink < box.max)).all(axis=1).sum())
