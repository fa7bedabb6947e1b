"""A miniature semantic segmentation data set in ADE20K's own layout, drawn from a seed.

What makes an area of the ground is its *texture*, what makes a thing upon it its *shape*: all grounds
take their colours from one distribution, all things from another, and any class may lie anywhere, so
that a mIoU above that of colour and position shows that a network learned something. Distractors,
which look like things, are unlabelled.

Files: ``images/training/ADE_train_00000001.jpg``..., ``images/validation/ADE_val_00000001.jpg``..., and
their labels below ``annotations`` as PNG of one 8-bit channel: those of :data:`LABELS`, 0 where unlabelled.
"""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmiformer.datasets.toy import folder
from mmiformer.datasets.toy.drawing import SIZES, colour, noise, ramp, scatter, tint, turned
from mmiformer.datasets.toy.folder import SPLITS
from mmiformer.datasets.toy.shapes import FULL, Shape, boat, clock, house, tree

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


# name -> (ADE20K's label, the texture as a field of H x W of about -1 to 1)
_GROUNDS: dict[str, tuple[int, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]]] = {
    'sky': (3, lambda rng, size: ramp(turned(size, rng.uniform(0, FULL))[0])),  # A gradient.
    'sea': (27, _waves),
    'rock': (35, _facets),
    'sand': (47, lambda rng, size: noise(rng, size, 4, 1.3)),  # Speckle.
}
# name -> (ADE20K's label, drawing function, relative size)
_THINGS: dict[str, tuple[int, Shape, float]] = {
    'tree': (5, tree, 1.9),
    'house': (26, house, 1.6),
    'boat': (77, boat, 1.8),
    'clock': (149, clock, 1.4),
}

_labels = {name: row[0] for name, row in _GROUNDS.items()} | {name: row[0] for name, row in _THINGS.items()}
LABELS: dict[str, int] = dict(sorted(_labels.items(), key=lambda item: item[1]))
CLASSES: tuple[str, ...] = tuple(LABELS)  # in the order of the labels, as in mmseg


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


def _draw(seed: int, split: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One image (uint8, H x W x 3, BGR) and its labels (uint8, H x W, 0 where unlabelled).

    The random numbers depend on the arguments alone, not on the images drawn before.
    """
    rng = np.random.default_rng([seed, split, index])
    size = SIZES[rng.integers(len(SIZES))]
    grounds = rng.permutation(list(_GROUNDS))[: rng.integers(2, 5)]
    things = rng.permutation(list(_THINGS))[: rng.integers(1, 4)]
    wanted = rng.permutation([*things, *[''] * rng.integers(1, 3)])

    shares = _regions(rng, size, len(grounds))
    image = np.zeros((size[1], size[0], 3), np.float32)
    for share, name in zip(shares, grounds, strict=True):
        # Strong, and lighter and darker more than of another hue: a network has only minutes to see it.
        swing = rng.choice((-1, 1)) * rng.uniform(45, 60) * rng.uniform(0.8, 1.2, 3)
        base = 64 + colour(rng) / 2  # leaves room for the swing
        image += share[..., None] * tint(rng, base, swing, _GROUNDS[name][1](rng, size))
    labels = np.array([LABELS[name] for name in grounds], np.uint8)[shares.argmax(0)]
    owner, names, _ = scatter(rng, image, wanted, {name: row[1:] for name, row in _THINGS.items()})
    for number, name in enumerate(names):
        labels[owner == number] = LABELS[name] if name else 0
    return np.clip(image, 0, 255).round().astype(np.uint8), labels


def _write(root: Path, parameters: dict) -> None:
    for split, index in folder.each_image(parameters):
        image, labels = _draw(parameters['seed'], SPLITS.index(split), index)
        stem = f'{_FOLDERS[split]}/ADE_{split}_{index + 1:08d}'
        folder.write_image(root / 'images' / f'{stem}.jpg', image)
        folder.write_image(root / 'annotations' / f'{stem}.png', labels)


def describe(root: Path | str) -> str:
    """Describes the label files below ``root``: a plain table with one column a split.

    The last row is the mIoU of naming the split's most frequent class everywhere, over the classes that
    occur and without the unlabelled pixels.
    """
    columns = []
    for split, name in _FOLDERS.items():
        masks = [np.array(Image.open(path)) for path in Path(root, 'annotations', name).glob('*.png')]
        counts = np.array([np.bincount(mask.ravel(), minlength=256) for mask in masks])  # images x labels
        shares = counts.sum(0) / counts.sum()
        images = (counts > 0).sum(0)
        guess = shares[1:].max() / shares[1:].sum() / (shares[1:] > 0).sum()
        columns.append(
            {
                '': split,
                'images': f'{len(masks)}',
                'share of pixels / images with the class': '',
                **{f'  {key}': f'{shares[label]:.1%} / {images[label]}' for key, label in LABELS.items()},
                'unlabelled': f'{shares[0]:.1%}',
                'classes an image': f'{images[1:].sum() / len(masks):.1f}',
                'mIoU of naming the most frequent class only': f'{guess:.3f}',
            }
        )
    return folder.table(columns)


TOY_DATA = folder.ToyData('ade', CLASSES, _write, describe, 'ade 1')
make_ade = TOY_DATA.make
