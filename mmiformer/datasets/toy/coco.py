"""A miniature detection data set in COCO's own layout, drawn from a seed.

Every detection config runs on it on a CPU, without a download. What makes an object is its *shape*:
fills, backgrounds and distractors take their colours and textures from one distribution, so that a box
AP above chance shows that a network learned something.

Files: ``annotations/instances_{train,val}2017.json``, ``train2017/000000000001.jpg``..., ``val2017/``...
"""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from mmiformer.datasets.annotations import run_lengths
from mmiformer.datasets.toy.drawing import SIZES, background, scatter
from mmiformer.datasets.toy.folder import SPLITS, Images, ToyData, write_image
from mmiformer.datasets.toy.shapes import Shapes, clock, donut, kite, umbrella

# COCO's ids, in ascending order: mmdet reads categories in this order.
CATEGORY_IDS: dict[str, int] = {'umbrella': 28, 'kite': 38, 'donut': 60, 'clock': 85}
CLASSES: tuple[str, ...] = tuple(CATEGORY_IDS)
_SHAPES: Shapes = dict(umbrella=(umbrella, 1.2), kite=(kite, 1.4), donut=(donut, 1.0), clock=(clock, 1.0))


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, list[dict]]:
    """One image (uint8, H x W x 3, BGR), and its annotations without ids."""
    size = SIZES[rng.integers(len(SIZES))]
    # Each class appears once before one appears twice: classes stay balanced in small sets too.
    deck = [*rng.permutation(len(CLASSES)), rng.integers(len(CLASSES))][: rng.integers(1, 6)]
    wanted = rng.permutation([*(CLASSES[i] for i in deck), *[''] * rng.integers(1, 4)])
    image = background(rng, size)
    owner, names = scatter(rng, image, wanted, _SHAPES)
    annotations = []
    for number, name in enumerate(names):
        if name:
            mask = run_lengths(owner == number)
            area, box = int(rle.area(mask)), rle.toBbox(mask).tolist()
            annotations.append(
                dict(category_id=CATEGORY_IDS[name], iscrowd=0, area=area, bbox=box, segmentation=mask)
            )
    return np.clip(image, 0, 255).round().astype(np.uint8), annotations


def _write(root: Path, images: Images) -> None:
    categories = [{'id': number, 'name': name} for name, number in CATEGORY_IDS.items()]
    sets: dict[str, dict] = {s: dict(images=[], annotations=[], categories=categories) for s in SPLITS}
    annotation_id = 0
    for split, index, rng in images:
        image, annotations = _draw(rng)
        height, width = image.shape[:2]
        entry = {'id': index + 1, 'file_name': f'{index + 1:012d}.jpg', 'height': height, 'width': width}
        write_image(root / f'{split}2017' / entry['file_name'], image)
        sets[split]['images'].append(entry)
        for annotation in annotations:
            annotation_id += 1
            sets[split]['annotations'].append({'id': annotation_id, 'image_id': index + 1, **annotation})
    (root / 'annotations').mkdir()
    for split, content in sets.items():
        (root / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(content))


TOY_DATA = ToyData('coco', 2, CLASSES, _write)
