"""A miniature detection data set in COCO's own layout, drawn from a seed.

It lets every detection config run on a bare CPU without a download. What makes an object is its
*shape*: fills, backgrounds and distractors take their colours and textures from one distribution,
so that a box AP above chance shows that a network learned something.

Files: ``annotations/instances_{train,val}2017.json``, ``train2017/000000000001.jpg``..., ``val2017/``...
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from mmiformer.datasets.toy import folder
from mmiformer.datasets.toy.drawing import SIZES, background, grey, scatter
from mmiformer.datasets.toy.folder import SPLITS
from mmiformer.datasets.toy.shapes import Shape, clock, donut, kite, umbrella

MIN_TEXTURE = 5.0  # grey levels: an object whose `spread` is below would count as flat
OCCLUDED_BELOW = 0.95  # visible share; above it, only a shared edge is hidden


# name -> (COCO's category id, COCO's supercategory, drawing function, relative size), in the order
# of the ids, in which mmdet reads categories.
_OBJECTS: dict[str, tuple[int, str, Shape, float]] = {
    'umbrella': (28, 'accessory', umbrella, 1.2),
    'kite': (38, 'sports', kite, 1.4),
    'donut': (60, 'food', donut, 1.0),
    'clock': (85, 'indoor', clock, 1.0),
}

CLASSES: tuple[str, ...] = tuple(_OBJECTS)
CATEGORY_IDS: dict[str, int] = {name: row[0] for name, row in _OBJECTS.items()}


def spread(grey: np.ndarray) -> float:
    """Robust standard deviation of an object's grey values.

    It is 0 for a flat fill, whatever outline and lines lie upon it, as they cover less than half.
    """
    return 1.4826 * float(np.median(np.abs(grey - np.median(grey))))


def _draw(seed: int, split: int, index: int) -> tuple[np.ndarray, list[dict], int]:
    """One image (uint8, H x W x 3, BGR), its annotations without ids, its count of distractors.

    The random numbers depend on the arguments alone, not on the images drawn before.
    """
    rng = np.random.default_rng([seed, split, index])
    size = SIZES[rng.integers(len(SIZES))]
    # Every class comes once before one comes twice: classes stay balanced in small sets too.
    deck = [*rng.permutation(len(CLASSES)), rng.integers(len(CLASSES))][: rng.integers(1, 6)]
    wanted = rng.permutation([*(CLASSES[i] for i in deck), *[''] * rng.integers(1, 4)])

    image = background(rng, size)
    owner, names, areas = scatter(rng, image, wanted, {name: row[2:] for name, row in _OBJECTS.items()})
    image = np.clip(image, 0, 255).round().astype(np.uint8)

    annotations = []
    for number, (name, area) in enumerate(zip(names, areas, strict=True)):
        if name:
            mask = owner == number
            code = rle.encode(np.asfortranarray(mask, np.uint8))
            annotations.append(
                {
                    'category_id': CATEGORY_IDS[name],
                    'iscrowd': 0,
                    'area': int(rle.area(code)),
                    'bbox': rle.toBbox(code).tolist(),
                    'segmentation': {'size': code['size'], 'counts': code['counts'].decode()},
                    'visible': round(float(mask.sum()) / area, 3),
                    'texture': round(spread(grey(image[mask].astype(np.float32))), 1),
                }
            )
    return image, annotations, names.count('')


def _write(root: Path, parameters: dict) -> None:
    sets: dict[str, dict] = {split: {'images': [], 'annotations': []} for split in SPLITS}
    annotation_id = 0
    for split, index in folder.each_image(parameters):
        image, annotations, distractors = _draw(parameters['seed'], SPLITS.index(split), index)
        height, width = image.shape[:2]
        entry = {'id': index + 1, 'file_name': f'{index + 1:012d}.jpg', 'height': height, 'width': width}
        folder.write_image(root / f'{split}2017' / entry['file_name'], image)
        sets[split]['images'].append({**entry, 'distractors': distractors})
        for annotation in annotations:
            annotation_id += 1
            sets[split]['annotations'].append({'id': annotation_id, 'image_id': index + 1, **annotation})
    categories = [{'id': row[0], 'name': name, 'supercategory': row[1]} for name, row in _OBJECTS.items()]
    info = dict(description='mmiformer demo data', **parameters)
    (root / 'annotations').mkdir()
    for split, content in sets.items():
        text = json.dumps(dict(info=info, licenses=[], categories=categories, **content))
        (root / 'annotations' / f'instances_{split}2017.json').write_text(text)


def describe(root: Path | str) -> str:
    """Describes the annotation files below ``root``: a plain table with one column a split."""
    columns = []
    for split in SPLITS:
        path = Path(root, 'annotations', f'instances_{split}2017.json')
        content = json.loads(path.read_text())
        images, objects = content['images'], content['annotations']
        sizes = {image['id']: image['height'] * image['width'] for image in images}
        areas = np.percentile([100 * a['area'] / sizes[a['image_id']] for a in objects], (10, 50, 90))
        numbers = Counter(a['category_id'] for a in objects)
        columns.append(
            {
                '': split,
                'images': f'{len(images)}',
                'objects': f'{len(objects)}',
                **{f'  {name}': f'{numbers[category_id]}' for name, category_id in CATEGORY_IDS.items()},
                'objects partly occluded': f'{np.mean([a["visible"] < OCCLUDED_BELOW for a in objects]):.0%}',
                'objects textured': f'{np.mean([a["texture"] >= MIN_TEXTURE for a in objects]):.0%}',
                'object area, % of image (p10 / median / p90)': ' / '.join(f'{x:.1f}' for x in areas),
                'distractors an image': f'{np.mean([image["distractors"] for image in images]):.1f}',
            }
        )
    return folder.table(columns)


TOY_DATA = folder.ToyData('coco', CLASSES, _write, describe, 1)
make_coco = TOY_DATA.make
