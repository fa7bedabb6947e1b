"""A miniature detection data set in COCO's own layout, drawn from a seed.

It lets every detection config run on a bare CPU without a download. What makes an object is its
*shape*: fills, backgrounds and distractors take their colours and textures from one distribution,
so that a box AP above chance shows that a network learned something.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike
from pycocotools import mask as rle
from rich.console import Console
from rich.progress import track

GENERATOR_VERSION = 1
MARKER = 'mmiformer_demo.json'
MIN_TEXTURE = 5.0  # grey levels: an object whose `spread` is below would count as flat
OCCLUDED_BELOW = 0.95  # visible share; above it, only a shared edge is hidden
MIN_VISIBLE = 0.35

_SPLITS = ('train', 'val')
_SIZES = (
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
_FULL = 2 * math.pi


class _Pen:
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
        cv2.fillPoly(getattr(self, layer), [self._pixels(points)], value, cv2.LINE_AA, _SHIFT)

    def line(self, points: ArrayLike, width: float, layer: str = 'ink') -> None:
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


def _arc(
    radius: float, start: float = 0.0, stop: float = _FULL, centre: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Points on a circle, from angle ``start`` to ``stop`` in radians, clockwise on screen."""
    angles = np.linspace(start, stop, 49)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre


def _polar(radii: np.ndarray | list[float], angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radii, (-1, 1))


def _umbrella(pen: _Pen, rng: np.random.Generator) -> None:
    gores = int(rng.integers(3, 5))
    edges = np.linspace(1, -1, gores + 1)
    scallops = [
        _arc((a - b) / 2, 0, -math.pi, ((a + b) / 2, 0.15)) * (1, 0.6) + (0, 0.06) for a, b in pairwise(edges)
    ]
    pen.line([(0, -1), (0, 0.75)], 0.13, 'body')
    pen.line(_arc(0.16, 0, math.pi, (-0.16, 0.75)), 0.13, 'body')
    pen.fill(np.concatenate([_arc(1, math.pi, _FULL, (0, 0.15)), *scallops]))
    for x in edges[1:-1]:
        pen.line([(0, -0.85), (x, 0.15)], 0.06)


def _kite(pen: _Pen, rng: np.random.Generator) -> None:
    half, cross = rng.uniform(0.6, 0.72), rng.uniform(-0.4, -0.25)
    t = np.linspace(0, 1, 17)
    tail = np.stack([0.16 * np.sin(t * _FULL), 0.45 + 0.6 * t], 1)
    pen.line(tail, 0.09, 'body')
    for x, y in tail[[8, 15]]:
        pen.fill([(x - 0.2, y - 0.1), (x + 0.2, y + 0.1), (x + 0.2, y - 0.1), (x - 0.2, y + 0.1)])
    pen.fill([(0, -1), (half, cross), (0, 0.5), (-half, cross)])
    pen.line([(0, -1), (0, 0.5)], 0.07)
    pen.line([(-half, cross), (half, cross)], 0.07)


def _donut(pen: _Pen, rng: np.random.Generator) -> None:
    hole = rng.uniform(0.36, 0.46)
    pen.fill(_arc(1))
    pen.fill(_arc(hole), 0)
    for angle in np.arange(9) * _FULL / 9 + rng.uniform(-0.25, 0.25, 9):
        middle = _polar([rng.uniform(hole + 0.2, 0.8)], np.array([angle]))
        half = _polar([0.08], rng.uniform(0, math.pi, 1))
        pen.line(np.concatenate([middle - half, middle + half]), 0.08)


def _clock(pen: _Pen, rng: np.random.Generator) -> None:
    pen.fill(_arc(1))
    pen.line(_arc(0.94), 0.12)
    for angle in np.arange(12) * _FULL / 12:
        pen.line(_polar([0.7, 0.85], np.full(2, angle)), 0.07)
    hour = rng.uniform(0, _FULL)
    minute = hour + rng.uniform(0.25, 0.75) * _FULL  # hands that lie on each other would make no clock
    for angle, length, width in ((hour, 0.42, 0.13), (minute, 0.62, 0.09)):
        pen.line(_polar([0, length], np.full(2, angle)), width)


def _disc(pen: _Pen, rng: np.random.Generator) -> None:
    pen.fill(_arc(0.9))


def _open_ring(pen: _Pen, rng: np.random.Generator) -> None:
    start, gap = rng.uniform(0, _FULL), rng.uniform(1.2, 2.0)
    pen.fill(np.concatenate([_arc(0.95, start, start + _FULL - gap), _arc(0.5, start + _FULL - gap, start)]))


def _half_disc(pen: _Pen, rng: np.random.Generator) -> None:
    pen.fill(_arc(1, math.pi, _FULL, (0, 0.4)))


def _polygon(pen: _Pen, rng: np.random.Generator) -> None:
    corners = int(rng.integers(3, 5))
    outline = _polar(np.full(corners, 1.0), np.arange(corners) * _FULL / corners + rng.uniform(0, _FULL))
    pen.fill(outline)
    if rng.random() < 0.5:
        pen.line(np.concatenate([outline, outline[:1]]) * 0.55, 0.08)


def _star(pen: _Pen, rng: np.random.Generator) -> None:
    corners = int(rng.integers(4, 7))
    pen.fill(_polar(np.tile([1.0, 0.45], corners), np.arange(2 * corners) * _FULL / (2 * corners)))


def _bars(pen: _Pen, rng: np.random.Generator) -> None:
    for x in np.linspace(-0.7, 0.7, 3):
        pen.fill([(x - 0.16, -0.8), (x + 0.16, -0.8), (x + 0.16, 0.8), (x - 0.16, 0.8)])
    if rng.random() < 0.5:
        pen.fill([(-0.86, -0.16), (0.86, -0.16), (0.86, 0.16), (-0.86, 0.16)])


# name -> (COCO's category id, COCO's supercategory, drawing function, relative size), in the order
# of the ids, in which mmdet reads categories.
_OBJECTS: dict[str, tuple[int, str, Callable, float]] = {
    'umbrella': (28, 'accessory', _umbrella, 1.2),
    'kite': (38, 'sports', _kite, 1.4),
    'donut': (60, 'food', _donut, 1.0),
    'clock': (85, 'indoor', _clock, 1.0),
}
_DISTRACTORS: tuple[Callable, ...] = (_disc, _open_ring, _half_disc, _polygon, _star, _bars)

CLASSES: tuple[str, ...] = tuple(_OBJECTS)
CATEGORY_IDS: dict[str, int] = {name: row[0] for name, row in _OBJECTS.items()}


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A BGR colour in grey levels, from the one distribution for objects, grounds and clutter."""
    colour = rng.uniform(20, 235, 3)
    return (colour.mean() + 0.8 * (colour - colour.mean())).astype(np.float32)


def _texture(rng: np.random.Generator, size: tuple[int, int], base: np.ndarray) -> np.ndarray:
    """An area textured around the colour ``base``: float32 of H x W x 3, in grey levels."""
    width, height = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, _FULL)
    along, across = (
        x * math.cos(angle) + y * math.sin(angle),
        y * math.cos(angle) - x * math.sin(angle),
    )
    kind = rng.integers(4)
    wave = _FULL / rng.uniform(7, 30)
    if kind == 0:
        field = 2 * (along - along.min()) / np.ptp(along) - 1
    elif kind == 1:
        field = np.sin(along * wave)
    elif kind == 2:
        field = np.sin(along * wave) * np.sin(across * wave)
    else:
        field = np.zeros((height, width), np.float32)
        for cell in (6, 14, 40):
            grid = rng.normal(0, 0.45, (height // cell + 3, width // cell + 3)).astype(np.float32)
            field += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    swing = rng.normal(0, 1, 3)
    swing *= rng.uniform(15, 35) / math.sqrt(np.mean(swing**2))
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(7, 12))
    return base + field[..., None].astype(np.float32) * swing.astype(np.float32) + grain


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Two textures, one seen through blurred shapes, and thin clutter: float32 of H x W x 3."""
    width, height = size
    image = _texture(rng, size, _colour(rng))
    veil = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(2, 6)):
        centre, axes = rng.uniform((0, 0), size).astype(int), rng.uniform(15, 80, 2).astype(int)
        cv2.ellipse(veil, centre.tolist(), axes.tolist(), rng.uniform(0, 360), 0, 360, 1.0, -1)
    veil = cv2.GaussianBlur(veil, (0, 0), rng.uniform(2, 20)) * np.float32(rng.uniform(0.4, 0.9))
    image += veil[..., None] * (_texture(rng, size, _colour(rng)) - image)
    for _ in range(rng.integers(0, 8)):
        start, end = rng.uniform((0, 0), size, (2, 2)).astype(int).tolist()
        cv2.line(image, start, end, _colour(rng).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return image


def _grey(colour: np.ndarray) -> np.ndarray:
    return colour @ np.array([0.114, 0.587, 0.299], np.float32)  # BGR, as OpenCV keeps it


def spread(grey: np.ndarray) -> float:
    """Robust standard deviation of an object's grey values.

    It is 0 for a flat fill, whatever outline and lines lie upon it, as they cover less than half.
    """
    return 1.4826 * float(np.median(np.abs(grey - np.median(grey))))


def _paint(rng: np.random.Generator, image: np.ndarray, body: np.ndarray, lines: np.ndarray) -> None:
    """Lays an item upon the image (in place), with a soft shadow around it."""
    left, top, width, height = cv2.boundingRect((body > 0).astype(np.uint8))
    reach = 9  # pixels around the item that its shadow may touch
    window = np.s_[max(0, top - reach) : top + height + reach, max(0, left - reach) : left + width + reach]
    image, body, lines = image[window], body[window], lines[window]
    size = (image.shape[1], image.shape[0])
    under = _grey(image[body > 0.5].mean(0))
    base = _colour(rng)
    while abs(_grey(base) - under) < 35:  # seen against what lies below, lighter or darker
        base = _colour(rng)
    fill = _texture(rng, size, base)
    tone = base * 0.3 if _grey(base) > 115 else base + 0.7 * (255 - base)
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


def _draw(seed: int, split: int, index: int) -> tuple[np.ndarray, list[dict], int]:
    """One image (uint8, H x W x 3, BGR), its annotations without ids, its count of distractors.

    The random numbers depend on the arguments alone, not on the images drawn before.
    """
    rng = np.random.default_rng([seed, split, index])
    size = _SIZES[rng.integers(len(_SIZES))]
    # Every class comes once before one comes twice: classes stay balanced in small sets too.
    deck = [*rng.permutation(len(CLASSES)), rng.integers(len(CLASSES))][: rng.integers(1, 6)]
    wanted = rng.permutation([*(CLASSES[i] for i in deck), *[''] * rng.integers(1, 4)])

    image = _background(rng, size)
    owner = np.full(image.shape[:2], -1, np.int16)
    placed: list[tuple[np.ndarray, float]] = []
    names: list[str] = []
    areas: list[int] = []
    for name in wanted:
        draw, relative = _DISTRACTORS[rng.integers(len(_DISTRACTORS))], 1.0
        if name:
            draw, relative = _OBJECTS[name][2:]
        radius = relative * 0.1 * 2 ** rng.uniform(0, 1) * math.sqrt(size[0] * size[1])
        tilt = rng.uniform(-0.45, 0.45)
        for _ in range(5):
            centre = _place(rng, size, radius, placed)
            pen = _Pen(size, centre, radius, tilt)
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
                    'texture': round(spread(_grey(image[mask].astype(np.float32))), 1),
                }
            )
    return image, annotations, names.count('')


def _write(root: Path, parameters: dict) -> None:
    annotation_id = 0
    tasks = [(split, i) for split in _SPLITS for i in range(parameters[f'num_{split}'])]
    sets: dict[str, dict] = {split: {'images': [], 'annotations': []} for split in _SPLITS}
    (root / 'annotations').mkdir(parents=True)
    for split in _SPLITS:
        (root / f'{split}2017').mkdir()
    console = Console(stderr=True)
    for split, index in track(tasks, 'Drawing the demo images', console=console, transient=True):
        image, annotations, distractors = _draw(parameters['seed'], _SPLITS.index(split), index)
        name = f'{index + 1:012d}.jpg'
        path = root / f'{split}2017' / name
        path.write_bytes(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
        height, width = image.shape[:2]
        entry = {'id': index + 1, 'file_name': name, 'height': height, 'width': width}
        sets[split]['images'].append({**entry, 'distractors': distractors})
        for annotation in annotations:
            annotation_id += 1
            entry = {'id': annotation_id, 'image_id': index + 1}
            sets[split]['annotations'].append({**entry, **annotation})
    categories = [{'id': row[0], 'name': name, 'supercategory': row[1]} for name, row in _OBJECTS.items()]
    for split, content in sets.items():
        info = dict(description='mmiformer demo data', **parameters)
        text = json.dumps(dict(info=info, licenses=[], categories=categories, **content))
        (root / 'annotations' / f'instances_{split}2017.json').write_text(text)
    (root / MARKER).write_text(json.dumps(parameters))


def _is_made(root: Path, parameters: dict) -> bool:
    try:
        return json.loads((root / MARKER).read_text()) == parameters
    except (OSError, ValueError):
        return False


def make_coco(root: Path | str, seed: int = 0, num_train: int = 360, num_val: int = 60) -> Path:
    """Draws the data set below ``root`` unless it is there already.

    The same arguments give the same files. They are written next to ``root`` and renamed at the
    end: an interrupted run leaves what was there before, and of two simultaneous ones the first to
    finish wins.

    Args:
        root: Folder of the data set: ``annotations/instances_{train,val}2017.json``,
            ``train2017/000000000001.jpg``..., ``val2017/``...
        seed: Not negative. Defaults to 0.
        num_train: Number of training images. Defaults to 360.
        num_val: Number of validation images. Defaults to 60.

    Returns:
        ``root`` as a path.

    Raises:
        FileExistsError: ``root`` holds files that this function did not make.
        ValueError: a number is out of range.
    """
    root = Path(root)
    if seed < 0 or num_train < 1 or num_val < 1:
        raise ValueError(
            f'need seed >= 0 and at least one image a split, got {seed=}, {num_train=}, {num_val=}'
        )
    parameters = {'seed': seed, 'num_train': num_train, 'num_val': num_val}
    parameters['generator'] = GENERATOR_VERSION
    if _is_made(root, parameters):
        return root
    ours = root.is_dir() and ((root / MARKER).is_file() or not any(root.iterdir()))
    if root.exists() and not ours:
        raise FileExistsError(f'{root} holds something other than demo data; give another folder')
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as folder:
        made = Path(folder, 'made')
        _write(made, parameters)
        if _is_made(root, parameters):
            return root
        try:
            if root.exists():
                os.rename(root, Path(folder, 'former'))
            os.rename(made, root)
        except OSError:
            if not _is_made(root, parameters):
                raise
    return root


def describe(root: Path | str) -> str:
    """What the annotation files below ``root`` hold: a plain table with one column a split.

    Raises:
        FileNotFoundError: there is no such data set.
    """
    columns = []
    for split in _SPLITS:
        path = Path(root, 'annotations', f'instances_{split}2017.json')
        content = json.loads(path.read_text())
        images = {image['id']: image for image in content['images']}
        objects = content['annotations']
        sizes = [images[a['image_id']]['height'] * images[a['image_id']]['width'] for a in objects]
        percent = [100 * a['area'] / size for a, size in zip(objects, sizes, strict=True)]
        areas = [f'{x:.1f}' for x in np.percentile(percent, (10, 50, 90))]
        occluded = np.mean([a['visible'] < OCCLUDED_BELOW for a in objects])
        textured = np.mean([a['texture'] >= MIN_TEXTURE for a in objects])
        distractors = np.mean([image['distractors'] for image in images.values()])
        column = {'': split, 'images': f'{len(images)}', 'objects': f'{len(objects)}'}
        for category in content['categories']:
            count = sum(a['category_id'] == category['id'] for a in objects)
            column[f'  {category["name"]}'] = f'{count}'
        column['objects partly occluded'] = f'{occluded:.0%}'
        column['objects textured'] = f'{textured:.0%}'
        column['object area, % of image (p10 / median / p90)'] = ' / '.join(areas)
        column['distractors an image'] = f'{distractors:.1f}'
        columns.append(column)
    return '\n'.join(f'{key:<46}' + ''.join(f'{column[key]:>20}' for column in columns) for key in columns[0])
