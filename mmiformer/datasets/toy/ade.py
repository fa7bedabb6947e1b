"""A miniature semantic segmentation data set in ADE20K's own layout, drawn from a seed.

Areas of the ground differ in *texture*, things in *shape*: all grounds take their colours from one
distribution, all things from another, and any class may lie anywhere, so that a mIoU above that of
colour and position shows that a network learned something. Distractors, which resemble things, are
unlabelled.

Files: ``images/training/ADE_train_00000001.jpg``..., ``images/validation/ADE_val_00000001.jpg``..., and
their masks below ``annotations``, PNG of one 8-bit channel: values of :data:`LABELS`, 0 where unlabelled.
"""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from mmiformer.datasets.toy.drawing import SIZES, colour, noise, ramp, scatter, tint, turned
from mmiformer.datasets.toy.folder import Images, ToyData, write_image
from mmiformer.datasets.toy.shapes import FULL, Shapes, boat, clock, house, tree

_FOLDERS = {'train': 'training', 'val': 'validation'}


def _waves(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    along, across = turned(size, rng.uniform(-0.4, 0.4))
    wave = rng.uniform(14, 20)  # pixels
    bend = 0.3 * wave * np.sin(along * FULL / (wave * rng.uniform(2.2, 3)))
    return 1.3 * np.sin((across + bend) * FULL / wave)


def _facets(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    step = 26  # pixels from one facet to the next
    peaks = np.ones((height, width), np.uint8)
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    shift = rng.integers(-step // 2 + 1, step // 2, (2, *y.shape))
    peaks[np.clip(y + shift[0], 0, height - 1), np.clip(x + shift[1], 0, width - 1)] = 0
    nearest = cv2.distanceTransformWithLabels(peaks, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    return 1.7 * rng.uniform(-1, 1, nearest.max() + 1)[nearest]


# ADE20K's labels, in ascending order: mmseg numbers classes in this order.
LABELS: dict[str, int] = dict(sky=3, tree=5, house=26, sea=27, rock=35, sand=47, boat=77, clock=149)
CLASSES: tuple[str, ...] = tuple(LABELS)
# Name -> texture, a field of H x W of about -1 to 1.
_GROUNDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    'sky': lambda rng, size: ramp(turned(size, rng.uniform(0, FULL))[0]),  # A gradient.
    'sea': _waves,
    'rock': _facets,
    'sand': lambda rng, size: noise(rng, size, 4, 1.3),  # Speckle.
}
_THINGS: Shapes = {'tree': (tree, 1.9), 'house': (house, 1.6), 'boat': (boat, 1.8), 'clock': (clock, 1.4)}


def _regions(rng: np.random.Generator, size: tuple[int, int], number: int) -> np.ndarray:
    """How much of a pixel belongs to each region: float32 of ``number`` x H x W that sums to 1."""
    width, height = size
    draws = rng.uniform((0, 0), size, (8, number, 2))
    centres = max(draws, key=lambda draw: min(np.linalg.norm(a - b) for a, b in combinations(draw, 2)))
    # Straight borders between the nearest centres, bent by the noise that displaces the pixels.
    x, y = (axis + noise(rng, size, 45, 16) + noise(rng, size, 10, 2.5) for axis in turned(size, 0))
    distances = np.stack([np.hypot(x - a, y - b) for a, b in centres])
    shares = np.exp(distances.min(0) - distances)  # soft over about a pixel, as a camera has it
    return (shares / shares.sum(0)).astype(np.float32)


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image (uint8, H x W x 3, BGR), and its labels (uint8, H x W, 0 where unlabelled)."""
    size = SIZES[rng.integers(len(SIZES))]
    grounds = rng.permutation(list(_GROUNDS))[: rng.integers(2, 5)]
    things = rng.permutation(list(_THINGS))[: rng.integers(1, 4)]
    wanted = rng.permutation([*things, *[''] * rng.integers(1, 3)])
    shares = _regions(rng, size, len(grounds))
    image = np.zeros((size[1], size[0], 3), np.float32)
    for share, name in zip(shares, grounds, strict=True):
        # Textures differ strongly, in brightness more than in hue: a network trains on them for minutes only.
        swing = rng.choice((-1, 1)) * rng.uniform(45, 60) * rng.uniform(0.8, 1.2, 3)
        base = 64 + colour(rng) / 2  # leaves room for the swing
        image += share[..., None] * tint(rng, base, swing, _GROUNDS[name](rng, size))
    labels = np.array([LABELS[name] for name in grounds], np.uint8)[shares.argmax(0)]
    owner, names = scatter(rng, image, wanted, _THINGS)
    for number, name in enumerate(names):
        labels[owner == number] = LABELS.get(name, 0)
    return np.clip(image, 0, 255).round().astype(np.uint8), labels


def _write(root: Path, images: Images) -> None:
    for split, index, rng in images:
        image, labels = _draw(rng)
        stem = f'{_FOLDERS[split]}/ADE_{split}_{index + 1:08d}'
        write_image(root / 'images' / f'{stem}.jpg', image)
        write_image(root / 'annotations' / f'{stem}.png', labels)


TOY_DATA = ToyData('ade', 1, CLASSES, _write)
