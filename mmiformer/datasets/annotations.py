"""Annotations in COCO's format, looked at before anything is made of them.

pycocotools takes them on trust: of two annotations with one id the first is lost, so is one of an image that
is not listed, and a mask with a NaN or with too few pixels ends the process, or lasts for ever, or shows
whatever was in memory.
"""

import gc
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmiformer.errors import UserError, first_line
from mmiformer.files import check_regular

NO_AREA = 'boxes without area (below 1 pixel, or outside of the image)'
NO_CATEGORY = 'boxes of a category that the file does not declare'
NO_POLYGON = 'polygons of less than 3 points'

# In pixels: no coordinate is further away, no outline longer. pycocotools takes memory for each pixel of an
# outline, also outside of the image, and dies where there are too many to count.
_FAR, _LONGEST = 10**6, 10**7
# Compressed run lengths: numbers of five bits a character, all but the last of which have the sixth bit, too.
_RLE = re.compile('[0-o]*[0-O]')
_LONGEST_NUMBER = 7  # characters
_RLES_AT_ONCE = 200  # More do not fit into a processor's cache.
_OTHER_COUNTS = 'a mask whose counts are not the number of pixels of its image'

Images = dict[int | str, tuple[str, int, int]]  # Name, width and height by id.


def read_coco(file: str | Path, name: str | None = None) -> dict[str, Any]:
    """Reads a file in COCO's format.

    Args:
        file: The file, on this machine.
        name: What to call it in messages. Defaults to its path.

    Returns:
        An object with the lists ``images`` and ``categories``, and ``annotations`` unless it is of a test
        set.

    Raises:
        UserError: If it cannot be read, or is of another format.
    """
    name = name or str(file)
    check_regular(file)
    collecting = gc.isenabled()
    gc.disable()  # Half of the time would go into looking for garbage among what is read.
    try:
        content = json.loads(Path(file).read_bytes())
    except OSError as error:
        raise UserError(f'{name}: cannot be read ({error.strerror}); restore the file.') from error
    except (ValueError, RecursionError) as error:  # Of the JSON or of its encoding.
        raise UserError(f'{name}: no JSON ({first_line(error)}); fetch or write the file again.') from error
    finally:
        if collecting:
            gc.enable()
    parts = {'annotations': [], **content} if isinstance(content, dict) else {}
    if not all(isinstance(parts.get(key), list) for key in ('images', 'categories', 'annotations')):
        raise UserError(
            f'{name}: JSON, but no object with lists of images, categories and annotations as in the format '
            'of COCO; name the file of the instances, or convert it.'
        )
    return content


def check_coco(
    path: str, content: dict[str, Any], masks: bool = False, evaluated: bool = False
) -> dict[str, list[str]]:
    """Raises at what would be lost, mixed up or misread.

    Args:
        path: The file, for messages.
        content: What :func:`read_coco` gives.
        masks: Whether the masks are to be used. Defaults to False.
        evaluated: Whether COCO's metric is to use it, too, which wants more. Defaults to False.

    Returns:
        What mmdet skips: a description, and the image of each.

    Raises:
        UserError: Naming the file, and the image, category or annotation.
    """
    images = _images_of(path, content['images'])
    categories = _categories_of(path, content['categories'])
    annotations = content.get('annotations', [])
    skipped: dict[str, list[str]] = defaultdict(list)
    ids = []
    for annotation in annotations:
        try:
            ids.append(annotation['id'])
            name, width, height = images[annotation['image_id']]
            (x, y, w, h), area = annotation['bbox'], annotation['area']
            known = annotation['category_id'] in categories
            crowd = annotation['iscrowd'] if evaluated else annotation.get('iscrowd', 0)
            sound = abs(x) + abs(y) + abs(w) + abs(h) < _FAR and abs(area) < _FAR**2 and crowd in (0, 1)
            sound = sound and isinstance(ids[-1], int)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            sound = False
        if not sound:
            raise UserError(f'{path}: {_fault(annotation, images, evaluated)}; correct it.')
        if not known:
            skipped[NO_CATEGORY].append(name)
        elif w < 1 or h < 1 or area <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
            skipped[NO_AREA].append(name)
    _check_ids(path, 'annotation', ids)
    if evaluated and 0 in ids:
        raise UserError(
            f"{path}: has an annotation with id 0, which COCO's metric takes for none and counts as not "
            'found; number them from 1 on.'
        )
    if masks:
        short = _check_masks(path, annotations, images, evaluated)
        skipped.update({NO_POLYGON: short} if short else {})
    return skipped


def _images_of(path: str, images: list[Any]) -> Images:
    found = []
    for image in images:
        try:
            size = image['width'], image['height']
            sound = bool(image['file_name']) and isinstance(image['file_name'], str)
            sound = sound and isinstance(image['id'], int | str) and set(map(type, size)) == {int}
            sound = sound and 0 < min(size) <= max(size) < _FAR
        except (LookupError, TypeError):
            sound = False
        if not sound:
            raise UserError(
                f'{path}: has the image {str(image):.200}; expected an id, a file_name, and width and height '
                'as whole numbers from 1 on; correct it.'
            )
        found.append((image['id'], (image['file_name'], *size)))
    _check_ids(path, 'image', [number for number, _ in found])
    return dict(found)


def _categories_of(path: str, categories: list[Any]) -> set[int | str]:
    for category in categories:
        if not (
            isinstance(category, dict)
            and isinstance(category.get('id'), int | str)
            and isinstance(category.get('name'), str)
        ):
            raise UserError(
                f'{path}: has the category {str(category):.200}; expected an id and a name; correct it.'
            )
    ids = [category['id'] for category in categories]
    _check_ids(path, 'category', ids)
    return set(ids)


def _check_ids(path: str, what: str, ids: list[int | str]) -> None:
    if len(set(ids)) < len(ids):
        (twice, number), *_ = Counter(ids).most_common(1)
        raise UserError(
            f'{path}: has the {what} id {twice} {number} times, so that all but the last would be lost; give '
            'each one an id of its own.'
        )


def _fault(annotation: Any, images: Images, evaluated: bool) -> str:
    """What is wrong with an annotation, apart from its mask."""
    if not isinstance(annotation, dict):
        return f'has {str(annotation):.80} among its annotations, expected objects'
    wanted = ('id', 'image_id', 'category_id', 'bbox', 'area', *(('iscrowd',) if evaluated else ()))
    image = annotation.get('image_id')
    number, of = f'{str(annotation.get("id")):.80}', f'{str(image):.80}'
    lacking = [key for key in wanted if key not in annotation]
    if lacking:
        return f'annotation {number} of image {of} lacks {", ".join(lacking)}'
    if not isinstance(image, int | str) or image not in images:
        return f'annotation {number} is of image {of}, which the file does not list'
    given = ', '.join(f'{key} {str(annotation.get(key)):.80}' for key in ('bbox', 'area', 'iscrowd'))
    return (
        f'annotation {number} of {images[image][0]} has {given}; expected x, y, width and height below '
        f'{_FAR}, a number, and 0 or 1, and whole numbers as ids'
    )


def _check_masks(path: str, annotations: list[Any], images: Images, evaluated: bool) -> list[str]:
    """Raises at a mask that pycocotools would misread; returns the images of polygons that mmdet skips."""
    short, compressed = [], []
    for annotation in annotations:
        name, width, height = images[annotation['image_id']]
        mask = annotation.get('segmentation')
        if isinstance(mask, list) and mask:
            fault = _fault_of_polygons(mask, evaluated)
            if not fault and min(map(len, mask)) < 6:
                short += [name for polygon in mask if len(polygon) < 6]
        else:
            fault = _fault_of_rle(mask, width, height)
            if not fault and isinstance(mask['counts'], str):
                compressed.append((annotation, width * height))
        if fault:
            raise UserError(f'{path}: annotation {annotation["id"]} of {name} has {fault}; correct it.')
    for start in range(0, len(compressed), _RLES_AT_ONCE):
        some = compressed[start : start + _RLES_AT_ONCE]
        sound = are_whole([one['segmentation']['counts'] for one, _ in some], [pixels for _, pixels in some])
        if not sound.all():
            annotation = some[int(sound.argmin())][0]
            raise UserError(
                f'{path}: annotation {annotation["id"]} of {images[annotation["image_id"]][0]} has '
                f'{_OTHER_COUNTS}; correct it.'
            )
    return short


def _fault_of_polygons(polygons: list[Any], evaluated: bool) -> str | None:
    for polygon in polygons:
        try:
            # Nearly all are below this, and then have neither a NaN nor a long outline.
            near = sum(map(abs, polygon)) < _FAR or _is_near(polygon)
        except (TypeError, ArithmeticError):
            near = False
        if not near:
            return f'a mask with the polygon {str(polygon):.80}, expected numbers below {_FAR}'
        if len(polygon) % 2:
            return f'a mask with a polygon of {len(polygon)} numbers, expected pairs of x and y'
    if evaluated and len(polygons[0]) < 6:
        return "a mask that begins with less than 3 points, which COCO's metric stops at"
    return None


def _is_near(polygon: list[float]) -> bool:
    points = np.array(polygon[: len(polygon) // 2 * 2], float).reshape(-1, 2)
    steps = points - np.roll(points, 1, axis=0)
    return bool(abs(points).max() < _FAR and abs(steps).max(axis=1).sum() < _LONGEST)


def _fault_of_rle(mask: Any, width: int, height: int) -> str | None:
    """What is wrong with a mask in run lengths; of compressed ones the sum is for :func:`are_whole`."""
    if not isinstance(mask, dict) or not isinstance(mask.get('counts'), list | str):
        return f'the segmentation {str(mask):.80}, expected polygons, or an object with size and counts'
    if mask.get('size') != [height, width]:
        return f"a mask of size {str(mask.get('size')):.80}, expected its image's [{height}, {width}]"
    counts = mask['counts']
    if isinstance(counts, str):
        return None
    whole = set(map(type, counts)) == {int} and min(counts) >= 0 and sum(counts) == width * height
    return None if whole else _OTHER_COUNTS


def are_whole(counts: Sequence[str], pixels: Sequence[int]) -> np.ndarray:
    """Whether compressed run lengths are of masks of some numbers of pixels.

    Args:
        counts: Of each mask, as pycocotools writes them.
        pixels: Of each mask's image.

    Returns:
        A bool for each mask.
    """
    sound = np.array([_RLE.fullmatch(one) is not None for one in counts])
    if not sound.all():
        return sound
    codes = np.frombuffer(''.join(counts).encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes < 32)  # Of the characters of each number.
    first = np.append(0, last[:-1] + 1)
    size = last + 1 - first
    place = np.arange(len(codes)) - np.repeat(first, size)
    runs = np.add.reduceat((codes & 31) << 5 * place, first)
    runs[(codes[last] & 16) > 0] -= 1 << 5 * size[(codes[last] & 16) > 0]
    # Of each mask, from its fourth number on each is the difference to the one two before.
    ends = np.searchsorted(last, np.cumsum([len(one) for one in counts]))
    begins = np.append(0, ends[:-1])
    index = np.arange(len(runs)) - np.repeat(begins, ends - begins)
    for parity in (0, 1):
        chain = (index % 2 == parity) & (index > 0)
        sums = np.cumsum(np.where(chain, runs, 0))
        before = np.repeat(np.append(0, sums)[begins], ends - begins)
        runs[chain] = (sums - before)[chain]
    return (
        (np.maximum.reduceat(size, begins) <= _LONGEST_NUMBER)
        & (np.minimum.reduceat(runs, begins) >= 0)
        & (np.add.reduceat(runs, begins) == pixels)
    )
