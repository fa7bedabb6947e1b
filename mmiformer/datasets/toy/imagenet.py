"""A miniature classification data set in ImageNet's own layout, drawn from a seed.

What makes a class is the *shape* of one item, of any colour and texture, anywhere in the image among
distractors, so that an accuracy above chance shows that a network learned something.

Files: ``train/n02708093/n02708093_1.JPEG``..., ``val/n02708093/ILSVRC2012_val_00000001.JPEG``..., a folder
for each of :data:`FOLDERS`; training and validation images are divided evenly among the classes.
"""

from pathlib import Path

import cv2
import numpy as np

from mmiformer.datasets.toy.drawing import SIZES, background, scatter
from mmiformer.datasets.toy.folder import Images, ToyData, write_image
from mmiformer.datasets.toy.shapes import Shape, boat, clock, donut, hourglass, house, umbrella

# ImageNet's folder -> (its name, drawing function, relative size); classes are numbered in this order.
_ITEMS: dict[str, tuple[str, Shape, float]] = {
    'n02708093': ('analog clock', clock, 2.7),
    'n02793495': ('barn', house, 2.8),
    'n03544143': ('hourglass', hourglass, 2.8),
    'n04507155': ('umbrella', umbrella, 2.8),
    'n04612504': ('yawl', boat, 2.9),
    'n07693725': ('bagel, beigel', donut, 2.7),
}
FOLDERS: tuple[str, ...] = tuple(_ITEMS)
CLASSES: tuple[str, ...] = tuple(row[0] for row in _ITEMS.values())
_SHAPES = {folder: row[1:] for folder, row in _ITEMS.items()}


def _draw(rng: np.random.Generator, folder: str) -> np.ndarray:
    """One image (uint8, H x W x 3, BGR) of a class."""
    size = SIZES[rng.integers(len(SIZES))]
    wanted = [*[''] * rng.integers(0, 3), folder]  # The item comes last, so that nothing covers it.
    while True:
        image = background(rng, size)
        if folder in scatter(rng, image, wanted, _SHAPES)[1]:
            # Half as large as it is drawn: the networks see even less, and small files load faster.
            image = cv2.resize(image, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
            return np.clip(image, 0, 255).round().astype(np.uint8)


def _write(root: Path, images: Images) -> None:
    for split, index, rng in images:
        folder = FOLDERS[index % len(FOLDERS)]
        file = f'{folder}_{index + 1}.JPEG' if split == 'train' else f'ILSVRC2012_val_{index + 1:08d}.JPEG'
        write_image(root / split / folder / file, _draw(rng, folder))


TOY_DATA = ToyData('imagenet', 1, CLASSES, _write, 900, 180)
