"""Checks of annotations in COCO's format.

pycocotools has none: of two annotations with one id the first is lost, so is one of an image that is not
listed, and a mask with a NaN or with too few pixels crashes, never ends, or shows whatever was in memory.
"""

import gc
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmiformer.utils.errors import UserError, first_line
from mmiformer.utils.files import check_regular

NO_AREA = 'boxes without area (below 1 pixel, or outside of the image)'
NO_CATEGORY = 'boxes of a category that the file does not declare'
NO_POLYGON = 'polygons of less than 3 points'

# In pixels: no coordinate is further away, no outline longer. pycocotools takes memory for each pixel of an
# outline, also outside of the image, and dies where there are too many to count.
_FAR, _LONGEST = 10**6, 10**7
# Compressed run lengths: numbers of five bits a character, all but the last of which have the sixth bit, too.
_RLE = re.compile('(?:[P-o]{0,6}[0-O])+')

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
        raise UserError(name, f'cannot be read ({error.strerror})', 'restore the file') from error
    except (ValueError, RecursionError) as error:  # Of the JSON or of its encoding.
        raise UserError(name, f'no JSON ({first_line(error)})', 'fetch or write the file again') from error
    finally:
        if collecting:
            gc.enable()
    parts = {'annotations': [], **content} if isinstance(content, dict) else {}
    if not all(isinstance(parts.get(key), list) for key in ('images', 'categories', 'annotations')):
        raise UserError(
            name,
            'JSON, but no object with lists of images, categories and annotations as in the format of COCO',
            'name the file of the instances, or convert it',
        )
    return content


def check_coco(
    path: str, content: dict[str, Any], masks: bool = False, evaluated: bool = False
) -> dict[str, list[str]]:
    """Raises at what would be lost, mixed up or misread.

    Args:
        path: The file, for messages.
        content: The result of :func:`read_coco`.
        masks: Whether the masks are used. Defaults to False.
        evaluated: Whether COCO's metric uses the file, which asks for more. Defaults to False.

    Returns:
        What mmdet skips: a description, and the image of each.

    Raises:
        UserError: Naming the file, and the image, category or annotation.
    """
    expected = 'an id, a file_name, and width and height as whole numbers from 1 on'
    _check_entries(path, 'image', content['images'], _is_image, expected)
    _check_entries(path, 'category', content['categories'], _is_category, 'an id and a name')
    images = {one['id']: (one['file_name'], one['width'], one['height']) for one in content['images']}
    categories = {category['id'] for category in content['categories']}
    annotations = content.get('annotations', [])
    skipped: dict[str, list[str]] = defaultdict(list)
    for annotation in annotations:
        try:
            name, width, height = images[annotation['image_id']]
            (x, y, w, h), area = annotation['bbox'], annotation['area']
            known = annotation['category_id'] in categories
            crowd = annotation['iscrowd'] if evaluated else annotation.get('iscrowd', 0)
            valid = abs(x) + abs(y) + abs(w) + abs(h) < _FAR and abs(area) < _FAR**2 and crowd in (0, 1)
            valid = valid and isinstance(annotation['id'], int)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            valid = False
        if not valid:
            raise UserError(path, _fault(annotation, images, evaluated), 'correct it')
        if not known:
            skipped[NO_CATEGORY].append(name)
        elif w < 1 or h < 1 or area <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
            skipped[NO_AREA].append(name)
    _check_ids(path, 'annotation', annotations)
    if evaluated and any(annotation['id'] == 0 for annotation in annotations):
        raise UserError(
            path,
            "has an annotation with id 0, which COCO's metric takes for none and counts as not found",
            'number them from 1 on',
        )
    for annotation in annotations if masks else ():
        name, width, height = images[annotation['image_id']]
        mask = annotation.get('segmentation')
        polygons = mask if isinstance(mask, list) else []
        fault = _fault_of_polygons(polygons, evaluated) if polygons else _fault_of_rle(mask, width, height)
        if fault:
            raise UserError(path, f'annotation {annotation["id"]} of {name} has {fault}', 'correct it')
        for polygon in polygons:
            if len(polygon) < 6:
                skipped[NO_POLYGON].append(name)
    return skipped


def _is_image(image: Any) -> bool:
    name, size = image['file_name'], (image['width'], image['height'])
    named = isinstance(image['id'], int | str) and isinstance(name, str) and name != ''
    return named and set(map(type, size)) == {int} and 0 < min(size) <= max(size) < _FAR


def _is_category(category: Any) -> bool:
    return isinstance(category['id'], int | str) and isinstance(category['name'], str)


def _check_entries(
    path: str, what: str, entries: list[Any], is_valid: Callable[[Any], bool], expected: str
) -> None:
    for entry in entries:
        try:
            valid = is_valid(entry)
        except (LookupError, TypeError):
            valid = False
        if not valid:
            raise UserError(path, f'has the {what} {str(entry):.200}; expected {expected}', 'correct it')
    _check_ids(path, what, entries)


def _check_ids(path: str, what: str, entries: list[Any]) -> None:
    for number, times in Counter(entry['id'] for entry in entries).most_common(1):
        if times > 1:
            raise UserError(
                path,
                f'has the {what} id {number} {times} times, so that all but the last would be lost',
                'give each one an id of its own',
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
    if not isinstance(mask, dict) or not isinstance(mask.get('counts'), list | str):
        return f'the segmentation {str(mask):.80}, expected polygons, or an object with size and counts'
    if mask.get('size') != [height, width]:
        return f"a mask of size {str(mask.get('size')):.80}, expected its image's [{height}, {width}]"
    if not is_whole(mask['counts'], width * height):
        return 'a mask whose counts are not the number of pixels of its image'
    return None


def is_whole(counts: list[Any] | str, pixels: int) -> bool:
    """Whether run lengths are those of a mask of some number of pixels.

    Args:
        counts: Whole numbers, or the text into which pycocotools compresses them.
        pixels: Of the mask's image.
    """
    if not isinstance(counts, str):
        return set(map(type, counts)) == {int} and min(counts) >= 0 and sum(counts) == pixels
    if not _RLE.fullmatch(counts):
        return False
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes < 32)  # Of the characters of each number, the lowest bits first.
    first = np.append(0, last[:-1] + 1)
    shifts = 5 * (np.arange(len(codes)) - np.repeat(first, last + 1 - first))
    runs = np.add.reduceat((codes & 31) << shifts, first)
    runs -= np.where(codes[last] & 16, 32 << shifts[last], 0)
    for start in (1, 2):  # From the fourth on, each is the difference to the one two before.
        runs[start::2] = runs[start::2].cumsum()
    return bool(runs.min() >= 0 and runs.sum() == pixels)
