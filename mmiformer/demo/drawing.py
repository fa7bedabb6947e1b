"""What the miniature data sets are drawn from: a pen, shapes, colours, textures, and their laying out.

Fills, grounds and distractors of every data set take their colours from one distribution. Random
numbers are drawn in a fixed order, which the data sets' bytes depend on: a change here that alters
them needs a higher ``GENERATOR_VERSION`` in each data set's module.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np
from numpy.typing import ArrayLike

MIN_VISIBLE = 0.35  # of an item's pixels, what others may leave to be seen
FULL = 2 * math.pi
SIZES = (
    (256, 192),
    (256, 208),
    (256, 224),
    (240, 240),
    (256, 256),
    (224, 256),
    (208, 256),
    (192, 256),
)  # W, H

_SCALE = 2  # shapes are drawn at twice the size and averaged down, on top of OpenCV's antialiasing
_SHIFT = 4  # fractional bits of OpenCV's integer coordinates


class Pen:
    """Draws one item, given in [-1, 1] x [-1, 1] with y downwards, into two full-frame layers.

    ``body`` is what the item covers, ``ink`` the lines upon it: uint8, H * _SCALE x W * _SCALE.
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

    def fill(self, points: ArrayLike, value: int = 255, layer: str = 'body') -> None:
        """Fills the polygon of ``points`` (N x 2); ``value=0`` cuts it out."""
        cv2.fillPoly(getattr(self, layer), [self._pixels(points)], value, cv2.LINE_AA, _SHIFT)

    def line(self, points: ArrayLike, width: float, layer: str = 'ink') -> None:
        """Draws a path through ``points`` (N x 2), ``width`` in the unit of the points."""
        width = max(_SCALE, round(width * self._radius))  # at least one pixel of the image
        path = [self._pixels(points)]
        cv2.polylines(getattr(self, layer), path, False, 255, width, cv2.LINE_AA, _SHIFT)

    def layers(self) -> tuple[np.ndarray, np.ndarray]:
        """Coverage of the body and of its lines with the rim, float32 of H x W in 0..1."""
        rim_width = max(3, round(0.09 * self._radius) | 1)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim_width, rim_width))
        rim = cv2.subtract(self.body, cv2.erode(self.body, kernel))
        lines = cv2.min(cv2.max(self.ink, rim), self.body)
        size = (self.body.shape[1] // _SCALE, self.body.shape[0] // _SCALE)
        small = [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (self.body, lines)]
        return small[0].astype(np.float32) / 255, small[1].astype(np.float32) / 255


Shape = Callable[[Pen, np.random.Generator], None]


def arc(
    radius: float, start: float = 0.0, stop: float = FULL, centre: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Points on a circle, from angle ``start`` to ``stop`` in radians, clockwise on screen."""
    angles = np.linspace(start, stop, 49)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre


def polar(radii: np.ndarray | list[float], angles: np.ndarray) -> np.ndarray:
    """Points (N x 2) at ``angles`` in radians, clockwise on screen, ``radii`` from the origin."""
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radii, (-1, 1))


def clock(pen: Pen, rng: np.random.Generator) -> None:
    """Draws a dial with twelve marks and two hands."""
    pen.fill(arc(1))
    pen.line(arc(0.94), 0.12)
    for angle in np.arange(12) * FULL / 12:
        pen.line(polar([0.7, 0.85], np.full(2, angle)), 0.07)
    hour = rng.uniform(0, FULL)
    minute = hour + rng.uniform(0.25, 0.75) * FULL  # hands that lie on each other would make no clock
    for angle, length, width in ((hour, 0.42, 0.13), (minute, 0.62, 0.09)):
        pen.line(polar([0, length], np.full(2, angle)), width)


def _disc(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(arc(0.9))


def _open_ring(pen: Pen, rng: np.random.Generator) -> None:
    start, gap = rng.uniform(0, FULL), rng.uniform(1.2, 2.0)
    pen.fill(np.concatenate([arc(0.95, start, start + FULL - gap), arc(0.5, start + FULL - gap, start)]))


def _half_disc(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(arc(1, math.pi, FULL, (0, 0.4)))


def _polygon(pen: Pen, rng: np.random.Generator) -> None:
    corners = int(rng.integers(3, 5))
    outline = polar(np.full(corners, 1.0), np.arange(corners) * FULL / corners + rng.uniform(0, FULL))
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


_DISTRACTORS: tuple[Shape, ...] = (_disc, _open_ring, _half_disc, _polygon, _star, _bars)


def colour(rng: np.random.Generator) -> np.ndarray:
    """A BGR colour in grey levels, from the one distribution for objects, grounds and clutter."""
    colour = rng.uniform(20, 235, 3)
    return (colour.mean() + 0.8 * (colour - colour.mean())).astype(np.float32)


def turned(size: tuple[int, int], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel's coordinates in pixels along ``angle`` (radians, clockwise) and across: 2 x H x W."""
    width, height = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def ramp(along: np.ndarray) -> np.ndarray:
    """Linear in ``along``, from -1 to 1."""
    return 2 * (along - along.min()) / np.ptp(along) - 1


def noise(rng: np.random.Generator, size: tuple[int, int], cell: int, strength: float) -> np.ndarray:
    """Smooth noise, float32 of H x W: normal with deviation ``strength`` about every ``cell`` pixels."""
    width, height = size
    grid = rng.normal(0, strength, (height // cell + 3, width // cell + 3)).astype(np.float32)
    return cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)


def texture(rng: np.random.Generator, size: tuple[int, int], base: np.ndarray) -> np.ndarray:
    """An area textured around the colour ``base``: float32 of H x W x 3, in grey levels."""
    along, across = turned(size, rng.uniform(0, FULL))
    kind = rng.integers(4)
    wave = FULL / rng.uniform(7, 30)
    if kind == 0:
        field = ramp(along)
    elif kind == 1:
        field = np.sin(along * wave)
    elif kind == 2:
        field = np.sin(along * wave) * np.sin(across * wave)
    else:
        field = np.zeros_like(along)
        for cell in (6, 14, 40):
            field += noise(rng, size, cell, 0.45)
    swing = rng.normal(0, 1, 3)
    swing *= rng.uniform(15, 35) / math.sqrt(np.mean(swing**2))
    return tint(rng, base, swing, field)


def tint(rng: np.random.Generator, base: np.ndarray, swing: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Goes from ``base - swing`` to ``base + swing`` as ``field`` (H x W) goes from -1 to 1; with grain."""
    grain = rng.standard_normal((*field.shape, 1), np.float32) * np.float32(rng.uniform(7, 12))
    return base + field[..., None].astype(np.float32) * swing.astype(np.float32) + grain


def grey(colour: np.ndarray) -> np.ndarray:
    """The grey levels of BGR colours: ... x 3 to ...."""
    return colour @ np.array([0.114, 0.587, 0.299], np.float32)


def _paint(rng: np.random.Generator, image: np.ndarray, body: np.ndarray, lines: np.ndarray) -> None:
    """Lays an item upon the image (in place), with a soft shadow around it."""
    left, top, width, height = cv2.boundingRect((body > 0).astype(np.uint8))
    reach = 9  # pixels around the item that its shadow may touch
    window = np.s_[max(0, top - reach) : top + height + reach, max(0, left - reach) : left + width + reach]
    image, body, lines = image[window], body[window], lines[window]
    size = (image.shape[1], image.shape[0])
    under = grey(image[body > 0.5].mean(0))
    base = colour(rng)
    while abs(grey(base) - under) < 35:  # seen against what lies below, lighter or darker
        base = colour(rng)
    fill = texture(rng, size, base)
    tone = base * 0.3 if grey(base) > 115 else base + 0.7 * (255 - base)
    fill += lines[..., None] * (tone - fill) * 0.85
    x, y = rng.uniform(-3, 3, 2)
    shadow = cv2.warpAffine(body, np.array([[1, 0, x], [0, 1, y]], np.float32), size)
    shadow = cv2.GaussianBlur(shadow, (0, 0), 2)
    image *= 1 - np.float32(rng.uniform(0.2, 0.5)) * shadow[..., None]
    image += body[..., None] * (fill - image)


def _place(
    rng: np.random.Generator,
    size: tuple[int, int],
    radius: float,
    others: list[tuple[np.ndarray, float]],
) -> np.ndarray:
    """A centre (x, y): apart from the others' circles or, in some cases, overlapping one."""
    margin = min(radius * 0.9, min(size) / 2 - 1)
    centres = rng.uniform((margin, margin), np.subtract(size, margin), (40, 2))
    if not others:
        return centres[0]
    gaps = np.min([np.linalg.norm(centres - c, axis=1) / (radius + r) for c, r in others], axis=0)
    if rng.random() < 0.3:
        return centres[np.argmin(np.abs(gaps - rng.uniform(0.5, 0.75)))]
    return centres[np.argmax(np.minimum(gaps, 1.1))]


def scatter(
    rng: np.random.Generator,
    image: np.ndarray,
    wanted: Iterable[str],
    shapes: Mapping[str, tuple[Shape, float]],
) -> tuple[np.ndarray, list[str], list[int]]:
    """Lays items upon the image (in place), each above those before it.

    Args:
        rng: Where chance comes from.
        image: float32 of H x W x 3, BGR in grey levels.
        wanted: A key of ``shapes`` for each item, or '' for a distractor.
        shapes: The drawing function and the relative size of every name.

    Returns:
        ``owner``, int16 of H x W: the number of the item that a pixel shows, -1 for none; the items'
        names; and the pixels that each of them covered when it was drawn. Items for which there was
        no place are left out.
    """
    size = (image.shape[1], image.shape[0])
    owner = np.full(image.shape[:2], -1, np.int16)
    placed: list[tuple[np.ndarray, float]] = []
    names: list[str] = []
    areas: list[int] = []
    for name in wanted:
        draw, relative = _DISTRACTORS[rng.integers(len(_DISTRACTORS))], 1.0
        if name:
            draw, relative = shapes[name]
        radius = relative * 0.1 * 2 ** rng.uniform(0, 1) * math.sqrt(size[0] * size[1])
        tilt = rng.uniform(-0.45, 0.45)
        for _ in range(5):
            centre = _place(rng, size, radius, placed)
            pen = Pen(size, centre, radius, tilt)
            draw(pen, rng)
            body, lines = pen.layers()
            mask = body >= 0.5
            left = np.bincount(owner[~mask & (owner >= 0)], minlength=len(areas))
            # Drawn only where nothing gets hidden further: an object left in the picture without
            # its annotation would be a wrong negative.
            if all(left >= np.multiply(areas, MIN_VISIBLE)):
                owner[mask] = len(areas)
                placed.append((centre, radius))
                names.append(str(name))
                areas.append(int(mask.sum()))
                _paint(rng, image, body, lines)
                break
    return owner, names, areas
