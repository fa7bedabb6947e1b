"""The shapes in the miniature data sets, and the pen that draws them.

The drawn images depend on the order of the random numbers: a change here that alters them needs a higher
version in each module's ``TOY_DATA``.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike

FULL = 2 * math.pi

_SCALE = 2  # shapes are drawn at twice the size and averaged down, on top of OpenCV's antialiasing
_SHIFT = 4  # fractional bits of OpenCV's integer coordinates


class Pen:
    """Draws one item, given in [-1, 1] x [-1, 1] with y downwards, into two full-frame layers.

    ``body`` is what the item covers, ``ink`` its inner lines: uint8, H * _SCALE x W * _SCALE.
    """

    def __init__(self, size: tuple[int, int], centre: np.ndarray, radius: float, angle: float) -> None:
        width, height = size
        self.body = np.zeros((height * _SCALE, width * _SCALE), np.uint8)
        self.ink = np.zeros_like(self.body)
        self._radius = radius * _SCALE
        self._centre = np.asarray(centre) * _SCALE
        cos, sin = math.cos(angle), math.sin(angle)
        self._rotation = np.array([[cos, sin], [-sin, cos]])

    def _pixels(self, points: ArrayLike) -> np.ndarray:
        pixels = np.asarray(points, float) @ self._rotation * self._radius + self._centre
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32)

    def fill(self, points: ArrayLike, value: int = 255) -> None:
        """Fills the polygon of ``points`` (N x 2) in the body; ``value=0`` cuts it out."""
        cv2.fillPoly(self.body, [self._pixels(points)], value, cv2.LINE_AA, _SHIFT)

    def line(self, points: ArrayLike, width: float, layer: str = 'ink') -> None:
        """Draws a path through ``points`` (N x 2); ``width`` has the unit of the points."""
        width = max(_SCALE, round(width * self._radius))  # at least one pixel of the image
        target, path = self.body if layer == 'body' else self.ink, [self._pixels(points)]
        cv2.polylines(target, path, False, 255, width, cv2.LINE_AA, _SHIFT)

    def layers(self) -> tuple[np.ndarray, np.ndarray]:
        """Coverage of the body, and of its lines and rim: float32 of H x W in 0..1."""
        rim_width = max(3, round(0.09 * self._radius) | 1)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim_width, rim_width))
        rim = cv2.subtract(self.body, cv2.erode(self.body, kernel))
        lines = cv2.min(cv2.max(self.ink, rim), self.body)
        size = (self.body.shape[1] // _SCALE, self.body.shape[0] // _SCALE)
        small = [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (self.body, lines)]
        return small[0].astype(np.float32) / 255, small[1].astype(np.float32) / 255


Shape = Callable[[Pen, np.random.Generator], None]
Shapes = Mapping[str, tuple[Shape, float]]  # Name -> (drawing function, relative size).


def arc(radius: float, start: float = 0, stop: float = FULL, centre: ArrayLike = (0, 0)) -> np.ndarray:
    """Points on a circle, from angle ``start`` to ``stop`` in radians, clockwise on screen."""
    return polar(radius, np.linspace(start, stop, 49)) + centre


def polar(radii: ArrayLike, angles: np.ndarray) -> np.ndarray:
    """Points (N x 2) at ``angles`` in radians, clockwise on screen, ``radii`` from the origin."""
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radii, (-1, 1))


def clock(pen: Pen, rng: np.random.Generator) -> None:
    """Draws a dial with twelve marks and two hands."""
    pen.fill(arc(1))
    pen.line(arc(0.94), 0.12)
    for angle in np.arange(12) * FULL / 12:
        pen.line(polar([0.7, 0.85], np.full(2, angle)), 0.07)
    hour = rng.uniform(0, FULL)
    minute = hour + rng.uniform(0.25, 0.75) * FULL  # hands that coincide would look like one
    for angle, length, width in ((hour, 0.42, 0.13), (minute, 0.62, 0.09)):
        pen.line(polar([0, length], np.full(2, angle)), width)


def umbrella(pen: Pen, rng: np.random.Generator) -> None:
    """Draws a canopy of gores with scalloped edge, a stick and a crook."""
    gores = int(rng.integers(3, 5))
    edges = np.linspace(1, -1, gores + 1)
    scallops = [
        arc((a - b) / 2, 0, -math.pi, ((a + b) / 2, 0.15)) * (1, 0.6) + (0, 0.06) for a, b in pairwise(edges)
    ]
    pen.line([(0, -1), (0, 0.75)], 0.13, 'body')
    pen.line(arc(0.16, 0, math.pi, (-0.16, 0.75)), 0.13, 'body')
    pen.fill(np.concatenate([arc(1, math.pi, FULL, (0, 0.15)), *scallops]))
    for x in edges[1:-1]:
        pen.line([(0, -0.85), (x, 0.15)], 0.06)


def kite(pen: Pen, rng: np.random.Generator) -> None:
    """Draws a rhombus with a cross and a tail with bows."""
    half, cross = rng.uniform(0.6, 0.72), rng.uniform(-0.4, -0.25)
    t = np.linspace(0, 1, 17)
    tail = np.stack([0.16 * np.sin(t * FULL), 0.45 + 0.6 * t], 1)
    pen.line(tail, 0.09, 'body')
    for x, y in tail[[8, 15]]:
        pen.fill([(x - 0.2, y - 0.1), (x + 0.2, y + 0.1), (x + 0.2, y - 0.1), (x - 0.2, y + 0.1)])
    pen.fill([(0, -1), (half, cross), (0, 0.5), (-half, cross)])
    pen.line([(0, -1), (0, 0.5)], 0.07)
    pen.line([(-half, cross), (half, cross)], 0.07)


def donut(pen: Pen, rng: np.random.Generator) -> None:
    """Draws a ring with sprinkles."""
    hole = rng.uniform(0.36, 0.46)
    pen.fill(arc(1))
    pen.fill(arc(hole), 0)
    for angle in np.arange(9) * FULL / 9 + rng.uniform(-0.25, 0.25, 9):
        middle = polar(rng.uniform(hole + 0.2, 0.8), np.array([angle]))
        half = polar(0.08, rng.uniform(0, math.pi, 1))
        pen.line(np.concatenate([middle - half, middle + half]), 0.08)


def tree(pen: Pen, rng: np.random.Generator) -> None:
    """Draws a trunk and tiers of branches."""
    pen.fill([(-0.14, 0.6), (0.14, 0.6), (0.14, 1), (-0.14, 1)])
    tiers = int(rng.integers(3, 5))
    for tier in range(tiers):
        top, bottom = -1 + 1.25 * tier / tiers, -1 + 1.75 * (tier + 1) / tiers
        half = 0.45 + 0.35 * (tier + 1) / tiers
        pen.fill([(0, top), (half, bottom), (-half, bottom)])
        pen.line([(-half, bottom), (half, bottom)], 0.12)
        pen.line([(-0.5 * half, bottom), (0, (top + bottom) / 2), (0.5 * half, bottom)], 0.07)


def house(pen: Pen, rng: np.random.Generator) -> None:
    """Draws walls, a roof with tiles and a chimney, a door and a window."""
    eaves, side = rng.uniform(-0.25, -0.05), rng.choice((-1, 1))
    pen.fill([(-0.75, eaves), (0.75, eaves), (0.75, 0.85), (-0.75, 0.85)])
    pen.fill([(0, -0.95), (1, eaves), (-1, eaves)])
    pen.fill(np.multiply([(0.45, -0.9), (0.7, -0.9), (0.7, eaves), (0.45, eaves)], (side, 1)))  # chimney
    pen.line([(-0.9, eaves), (0.9, eaves)], 0.1)
    for half in (0.35, 0.65):  # rows of tiles
        y = -0.95 + half * (eaves + 0.95)
        pen.line([(-half, y), (half, y)], 0.07)
    pen.line(np.multiply([(0.2, 0.85), (0.2, 0.25), (0.5, 0.25), (0.5, 0.85)], (side, 1)), 0.09)
    window = [(-0.5, 0.2), (-0.15, 0.2), (-0.15, 0.5), (-0.5, 0.5), (-0.5, 0.2)]
    pen.line(np.multiply(window, (side, 1)), 0.09)


def boat(pen: Pen, rng: np.random.Generator) -> None:
    """Draws a hull, a mast and two sails."""
    side = rng.choice((-1, 1))
    mast = rng.uniform(-0.2, 0)
    sails = [[(mast, -1), (0.85, 0.2), (mast, 0.2)], [(mast, -0.85), (mast, 0.2), (-0.7, 0.2)]]
    for sail in sails:
        pen.fill(np.multiply(sail, (side, 1)))
    pen.line(np.multiply([(mast, -1), (mast, 0.4)], (side, 1)), 0.12, 'body')
    pen.line(np.multiply([(mast, -1), (mast, 0.4)], (side, 1)), 0.1)
    pen.line([(-0.6, -0.1), (0.7, -0.1)], 0.08)
    pen.fill([(-1, 0.35), (1, 0.35), (0.65, 0.9), (-0.65, 0.9)])
    pen.line([(-0.8, 0.58), (0.8, 0.58)], 0.08)


def hourglass(pen: Pen, rng: np.random.Generator) -> None:
    """Draws two bulbs between two plates, with sand in both."""
    waist = rng.uniform(0.08, 0.16)
    level = rng.uniform(0.25, 0.75)  # of the height of the upper bulb
    for side in (-1, 1):
        pen.fill(np.multiply([(-0.6, -0.8), (0.6, -0.8), (waist, 0), (-waist, 0)], (1, side)))
        pen.fill(np.multiply([(-0.75, -1), (0.75, -1), (0.75, -0.8), (-0.75, -0.8)], (1, side)))
        pen.line(np.multiply([(-0.75, -0.8), (0.75, -0.8)], (1, side)), 0.1)
    half = waist + (0.6 - waist) * level
    pen.line([(-half, -0.8 * level), (half, -0.8 * level)], 0.1)
    pen.line([(-0.45, 0.75), (0, 0.4), (0.45, 0.75)], 0.1)
    pen.line([(0, -0.1), (0, 0.4)], 0.07)


def _open_ring(pen: Pen, rng: np.random.Generator) -> None:
    start, gap = rng.uniform(0, FULL), rng.uniform(1.2, 2.0)
    pen.fill(np.concatenate([arc(0.95, start, start + FULL - gap), arc(0.5, start + FULL - gap, start)]))


def _polygon(pen: Pen, rng: np.random.Generator) -> None:
    corners = int(rng.integers(3, 5))
    outline = polar(1, np.arange(corners) * FULL / corners + rng.uniform(0, FULL))
    pen.fill(outline)
    if rng.random() < 0.5:
        pen.line(np.concatenate([outline, outline[:1]]) * 0.55, 0.08)


def _star(pen: Pen, rng: np.random.Generator) -> None:
    corners = int(rng.integers(4, 7))
    pen.fill(polar(np.tile([1.0, 0.45], corners), np.arange(2 * corners) * FULL / (2 * corners)))


def _bars(pen: Pen, rng: np.random.Generator) -> None:
    for x in np.linspace(-0.7, 0.7, 3):
        pen.fill([(x - 0.16, -0.8), (x + 0.16, -0.8), (x + 0.16, 0.8), (x - 0.16, 0.8)])
    if rng.random() < 0.5:
        pen.fill([(-0.86, -0.16), (0.86, -0.16), (0.86, 0.16), (-0.86, 0.16)])


# Items of no class.
DISTRACTORS: tuple[Shape, ...] = (
    lambda pen, rng: pen.fill(arc(0.9)),  # A disc.
    _open_ring,
    lambda pen, rng: pen.fill(arc(1, math.pi, FULL, (0, 0.4))),  # Half a disc.
    _polygon,
    _star,
    _bars,
)
