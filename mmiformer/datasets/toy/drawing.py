"""Colours, textures and the placement of shapes in the miniature data sets.

Fills, grounds and distractors of every data set take their colours from one distribution. The drawn
images depend on the order of the random numbers: a change here that alters them needs a higher version
in each module's ``TOY_DATA``.
"""

import math
from collections.abc import Iterable

import cv2
import numpy as np

from mmiformer.datasets.toy.shapes import DISTRACTORS, FULL, Pen, Shapes

_MIN_VISIBLE = 0.35  # of an item's pixels, that others must not cover
# Width and height.
SIZES = ((256, 192), (256, 208), (256, 224), (240, 240), (256, 256), (224, 256), (208, 256), (192, 256))


def colour(rng: np.random.Generator) -> np.ndarray:
    """A random BGR colour, in grey levels."""
    colour = rng.uniform(20, 235, 3)
    return (colour.mean() + 0.8 * (colour - colour.mean())).astype(np.float32)


def turned(size: tuple[int, int], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of all pixels along ``angle`` (radians, clockwise) and across it: 2 x H x W."""
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
    field = ramp(along)
    if kind == 1:
        field = np.sin(along * wave)
    elif kind == 2:
        field = np.sin(along * wave) * np.sin(across * wave)
    elif kind == 3:
        field = np.sum([noise(rng, size, cell, 0.45) for cell in (6, 14, 40)], axis=0)
    swing = rng.normal(0, 1, 3)
    swing *= rng.uniform(15, 35) / math.sqrt(np.mean(swing**2))
    return tint(rng, base, swing, field)


def tint(rng: np.random.Generator, base: np.ndarray, swing: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Goes from ``base - swing`` to ``base + swing`` as ``field`` (H x W) goes from -1 to 1; with grain."""
    grain = rng.standard_normal((*field.shape, 1), np.float32) * np.float32(rng.uniform(7, 12))
    return base + field[..., None].astype(np.float32) * swing.astype(np.float32) + grain


def background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Two textures, one seen through blurred shapes, and thin clutter: float32 of H x W x 3."""
    width, height = size
    image = texture(rng, size, colour(rng))
    veil = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(2, 6)):
        centre, axes = rng.uniform((0, 0), size).astype(int), rng.uniform(15, 80, 2).astype(int)
        cv2.ellipse(veil, centre.tolist(), axes.tolist(), rng.uniform(0, 360), 0, 360, 1.0, -1)
    veil = cv2.GaussianBlur(veil, (0, 0), rng.uniform(2, 20)) * np.float32(rng.uniform(0.4, 0.9))
    image += veil[..., None] * (texture(rng, size, colour(rng)) - image)
    for _ in range(rng.integers(0, 8)):
        start, end = rng.uniform((0, 0), size, (2, 2)).astype(int).tolist()
        cv2.line(image, start, end, colour(rng).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return image


def _grey(colour: np.ndarray) -> np.ndarray:
    return colour @ np.array([0.114, 0.587, 0.299], np.float32)


def _paint(rng: np.random.Generator, image: np.ndarray, body: np.ndarray, lines: np.ndarray) -> None:
    """Paints an item onto the image (in place), with a soft shadow around it."""
    left, top, width, height = cv2.boundingRect((body > 0).astype(np.uint8))
    reach = 9  # pixels around the item that its shadow may touch
    window = np.s_[max(0, top - reach) : top + height + reach, max(0, left - reach) : left + width + reach]
    image, body, lines = image[window], body[window], lines[window]
    size = (image.shape[1], image.shape[0])
    under = _grey(image[body > 0.5].mean(0))
    base = colour(rng)
    while abs(_grey(base) - under) < 35:  # visible against what lies below
        base = colour(rng)
    fill = texture(rng, size, base)
    tone = base * 0.3 if _grey(base) > 115 else base + 0.7 * (255 - base)
    fill += lines[..., None] * (tone - fill) * 0.85
    x, y = rng.uniform(-3, 3, 2)
    shadow = cv2.warpAffine(body, np.array([[1, 0, x], [0, 1, y]], np.float32), size)
    shadow = cv2.GaussianBlur(shadow, (0, 0), 2)
    image *= 1 - np.float32(rng.uniform(0.2, 0.5)) * shadow[..., None]
    image += body[..., None] * (fill - image)


def _place(
    rng: np.random.Generator, size: tuple[int, int], radius: float, others: list[tuple[np.ndarray, float]]
) -> np.ndarray:
    """A centre (x, y): apart from the circles of the others or, sometimes, overlapping one."""
    margin = min(radius * 0.9, min(size) / 2 - 1)
    centres = rng.uniform((margin, margin), np.subtract(size, margin), (40, 2))
    if not others:
        return centres[0]
    gaps = np.min([np.linalg.norm(centres - c, axis=1) / (radius + r) for c, r in others], axis=0)
    if rng.random() < 0.3:
        return centres[np.argmin(np.abs(gaps - rng.uniform(0.5, 0.75)))]
    return centres[np.argmax(np.minimum(gaps, 1.1))]


def scatter(
    rng: np.random.Generator, image: np.ndarray, wanted: Iterable[str], shapes: Shapes
) -> tuple[np.ndarray, list[str]]:
    """Paints items onto the image (in place), each above those before it.

    Args:
        rng: Source of the random numbers.
        image: float32 of H x W x 3, BGR in grey levels.
        wanted: For each item a key of ``shapes``, or '' for a distractor.
        shapes: Drawing function and relative size by name.

    Returns:
        The number of the item that each pixel shows, -1 for none (int16 of H x W), and the items' names.
        Items that did not fit are left out.
    """
    size = (image.shape[1], image.shape[0])
    owner = np.full(image.shape[:2], -1, np.int16)
    placed: list[tuple[np.ndarray, float]] = []
    names: list[str] = []
    areas: list[int] = []
    for name in wanted:
        draw, relative = DISTRACTORS[rng.integers(len(DISTRACTORS))], 1.0
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
            # Only where the others stay visible: an object without annotation would be a wrong negative.
            if all(left >= np.multiply(areas, _MIN_VISIBLE)):
                owner[mask] = len(areas)
                placed.append((centre, radius))
                names.append(str(name))
                areas.append(int(mask.sum()))
                _paint(rng, image, body, lines)
                break
    return owner, names
