"""A miniature classification data set in ImageNet's own layout, drawn from a seed.

What makes a class is the *shape* of one item, of any colour and texture, anywhere in the image among
distractors, so that an accuracy above chance shows that a network learned something.

Files: ``train/n02708093/n02708093_1.JPEG``..., ``val/n02708093/ILSVRC2012_val_00000001.JPEG``..., a folder
for each of :data:`FOLDERS`; training and validation images are shared evenly by the classes.
"""

from pathlib import Path

import cv2
import numpy as np

from mmiformer.datasets.toy import folder
from mmiformer.datasets.toy.drawing import SIZES, background, scatter
from mmiformer.datasets.toy.folder import SPLITS
from mmiformer.datasets.toy.shapes import Shape, boat, clock, donut, hourglass, house, umbrella

# ImageNet's name -> (its folder, drawing function, relative size), in the order of the folders, in which
# classes are numbered.
_ITEMS: dict[str, tuple[str, Shape, float]] = {
    'analog clock': ('n02708093', clock, 2.7),
    'barn': ('n02793495', house, 2.8),
    'hourglass': ('n03544143', hourglass, 2.8),
    'umbrella': ('n04507155', umbrella, 2.8),
    'yawl': ('n04612504', boat, 2.9),
    'bagel, beigel': ('n07693725', donut, 2.7),
}

CLASSES: tuple[str, ...] = tuple(_ITEMS)
FOLDERS: tuple[str, ...] = tuple(row[0] for row in _ITEMS.values())


def _draw(seed: int, split: int, index: int) -> np.ndarray:
    """One image (uint8, H x W x 3, BGR) of the class ``index % len(CLASSES)``.

    The random numbers depend on the arguments alone, not on the images drawn before.
    """
    rng = np.random.default_rng([seed, split, index])
    size = SIZES[rng.integers(len(SIZES))]
    name = CLASSES[index % len(CLASSES)]
    # The item comes last, so that nothing lies upon it.
    wanted = [*[''] * rng.integers(0, 3), name]
    while True:
        image = background(rng, size)
        names = scatter(rng, image, wanted, {name: row[1:] for name, row in _ITEMS.items()})[1]
        if name in names:
            # Half as large as it is drawn: the networks see less still, and small files are read faster.
            image = cv2.resize(image, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
            return np.clip(image, 0, 255).round().astype(np.uint8)


def _write(root: Path, parameters: dict) -> None:
    for split, index in folder.each_image(parameters):
        name = FOLDERS[index % len(FOLDERS)]
        file = f'{name}_{index + 1}.JPEG' if split == 'train' else f'ILSVRC2012_val_{index + 1:08d}.JPEG'
        folder.write_image(root / split / name / file, _draw(parameters['seed'], SPLITS.index(split), index))


def describe(root: Path | str) -> str:
    """Describes the folders below ``root``: a plain table with one column a split.

    The last row is the accuracy of naming one class everywhere.
    """
    columns = []
    for split in SPLITS:
        counts = [len(list(Path(root, split, name).glob('*.JPEG'))) for name in FOLDERS]
        column = {'': split, 'images': f'{sum(counts)}'}
        for name, wnid, count in zip(CLASSES, FOLDERS, counts, strict=True):
            column[f'  {wnid} {name}'] = f'{count}'
        column['accuracy of naming one class only, %'] = f'{100 * max(counts) / max(1, sum(counts)):.1f}'
        columns.append(column)
    return folder.table(columns)


TOY_DATA = folder.ToyData('imagenet', CLASSES, _write, describe, 'imagenet 1', 900, 180)
make_imagenet = TOY_DATA.make
