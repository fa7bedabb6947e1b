"""Checks of annotations in COCO's format.

pycocotools has none: of two annotations with one id it loses the first, and a mask with a NaN or with too few
pixels crashes it or shows whatever was in memory.
"""

import gc
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmiformer.utils.errors import UserError, first_line

NO_AREA = 'boxes without area (below 1 pixel, or outside of the image)'
NO_CATEGORY = 'boxes of a category that the file does not declare'
NO_POLYGON = 'polygons of less than 3 points'
NO_PIXEL = 'masks that cover no pixel of their image'

# Bounds in pixels. pycocotools takes memory for each pixel of an outline, also outside of the image; the sum
# of all coordinates bounds that, and no NaN is below it.
_MAX_SIDE, _MAX_SUM = 10**6, 10**8
# Compressed run lengths: numbers of five bits a character, all but the last of which have the sixth bit, too.
_RLE = re.compile('(?:[P-o]{0,6}[0-O])+')


def read_coco(file: str | Path) -> dict[str, Any]:
    """Reads a local file in COCO's format.

    Args:
        file: Path of the JSON file.

    Returns:
        An object with the lists ``images``, ``categories`` and ``annotations``, empty for a test set.

    Raises:
        UserError: If the file cannot be read or has another format.
    """
    gc.disable()  # Half of the time would go into looking for garbage among what is read.
    try:
        content = json.loads(Path(file).read_bytes())
    except OSError as error:
        raise UserError(file, f'cannot be read ({first_line(error)})', 'restore the file') from error
    except (ValueError, RecursionError) as error:  # Of the JSON or of its encoding.
        raise UserError(file, f'not JSON ({first_line(error)})', 'write the file again') from error
    finally:
        gc.enable()
    content = {'annotations': [], **content} if isinstance(content, dict) else {}
    if not all(isinstance(content.get(key), list) for key in ('images', 'categories', 'annotations')):
        problem = 'expected an object with lists of images, categories and annotations, as in COCO'
        raise UserError(file, problem, 'pass such a file, or convert this one')
    for image in (image for image in content['images'] if isinstance(image, dict)):
        for key in ('width', 'height'):  # Some exporters write 120.0.
            if isinstance(side := image.get(key), float) and side.is_integer():
                image[key] = int(side)
    return content


def check_coco(
    path: str, content: dict[str, Any], masks: bool = False, evaluated: bool = False
) -> dict[str, list[str]]:
    """Raises an error for annotations that pycocotools would lose, mix up or misread.

    Args:
        path: The file, for messages.
        content: The result of :func:`read_coco`.
        masks: Whether the masks are used. Defaults to False.
        evaluated: Whether COCO's metric uses the file, which needs ``iscrowd`` and ids other than 0, and
            stops at a first polygon of less than 3 points. Defaults to False.

    Returns:
        What mmdet skips: file names of the images, one for each annotation, by a description. mmdet would
        train on masks without a pixel, so their annotations get ``ignore=True``, which it heeds.

    Raises:
        UserError: Naming the file, and the image, category or annotation.
    """
    _check(path, 'image', content['images'], _is_image, 'an id, a file_name, and width and height in pixels')
    _check(path, 'category', content['categories'], _is_category, 'an id and a name')
    images = {image['id']: image for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    annotations = content['annotations']

    def is_annotation(annotation: Any) -> bool:
        (x, y, w, h), area = annotation['bbox'], annotation['area']
        crowd = annotation['iscrowd'] if evaluated else annotation.get('iscrowd', 0)
        near = abs(x) + abs(y) + abs(w) + abs(h) < _MAX_SIDE and abs(area) < _MAX_SIDE**2
        known = annotation['image_id'] in images and isinstance(annotation['category_id'], int | str)
        # The metric takes a prediction that matches id 0 for a wrong one.
        numbered = isinstance(annotation['id'], int) and (annotation['id'] != 0 or not evaluated)
        return near and known and numbered and crowd in (0, 1)

    def has_mask(annotation: Any) -> bool:
        image, mask = images[annotation['image_id']], annotation['segmentation']
        if isinstance(mask, list):
            valid = all(len(polygon) % 2 == 0 and sum(map(abs, polygon)) < _MAX_SUM for polygon in mask)
            return valid and len(mask[0]) >= (6 if evaluated else 0)
        size = [image['height'], image['width']]
        return mask['size'] == size and _covers(mask['counts'], size[0] * size[1])

    expected = 'an id, the image_id of a listed image, a category_id, a bbox of four numbers and an area'
    also = ', for evaluation also iscrowd and an id other than 0' if evaluated else ''
    _check(path, 'annotation', annotations, is_annotation, expected + also)
    if masks:
        expected = "as segmentation polygons x1, y1, x2, y2, ..., or size and counts of its image's pixels"
        also = ', for evaluation at least 3 points in the first polygon' if evaluated else ''
        _check(path, 'annotation', annotations, has_mask, expected + also)
    skipped: dict[str, list[str]] = defaultdict(list)
    for annotation in annotations:
        image, (x, y, w, h) = images[annotation['image_id']], annotation['bbox']
        outside = x >= image['width'] or y >= image['height'] or x + w <= 0 or y + h <= 0
        if annotation['category_id'] not in categories:
            skipped[NO_CATEGORY].append(image['file_name'])
        elif outside or w < 1 or h < 1 or annotation['area'] <= 0:
            skipped[NO_AREA].append(image['file_name'])
        elif masks and _is_empty(annotation['segmentation'], image['width'], image['height']):
            skipped[NO_PIXEL].append(image['file_name'])
            annotation['ignore'] = True
        if masks and isinstance(annotation['segmentation'], list):
            for polygon in annotation['segmentation']:
                if len(polygon) < 6:
                    skipped[NO_POLYGON].append(image['file_name'])
    return skipped


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask, H x W, in COCO's compressed format, as JSON can hold it."""
    from pycocotools import mask as coco  # Comes with mmdet.

    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    return dict(size=[int(side) for side in encoded['size']], counts=encoded['counts'].decode())


def _is_image(image: Any) -> bool:
    name, size = image['file_name'], (image['width'], image['height'])
    named = isinstance(image['id'], int | str) and isinstance(name, str) and name != ''
    return named and set(map(type, size)) == {int} and 0 < min(size) <= max(size) < _MAX_SIDE


def _is_category(category: Any) -> bool:
    return isinstance(category['id'], int | str) and isinstance(category['name'], str)


def _is_empty(mask: dict[str, Any] | list[list[float]], width: int, height: int) -> bool:
    """Whether run lengths or polygons, if any has 3 points, cover no pixel of an image."""
    from pycocotools import mask as coco  # Comes with mmdet.

    if isinstance(mask, dict):
        counts = mask['counts']
        return not (any(counts[1::2]) if isinstance(counts, list) else coco.area(mask))
    polygons = [polygon for polygon in mask if len(polygon) >= 6]
    for polygon in polygons:
        points = np.array(polygon, np.float32).reshape(-1, 2)
        x, y, w, h = cv2.boundingRect(points)
        # Nearly all end here, in a tenth of the time of drawing them.
        if min(x, y) >= 0 and x + w <= width and y + h <= height and cv2.contourArea(points) > w + h:
            return False
    return polygons != [] and coco.area(coco.merge(coco.frPyObjects(polygons, height, width))) == 0


def _check(path: str, kind: str, entries: list[Any], is_valid: Callable[[Any], bool], expected: str) -> None:
    for entry in entries:
        try:
            valid = is_valid(entry)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            valid = False
        if not valid:
            if isinstance(entry, dict):
                entry = {key: value for key, value in entry.items() if key != 'segmentation'}
            raise UserError(path, f'has the {kind} {str(entry):.200}; expected {expected}', 'correct it')
    for number, times in Counter(entry['id'] for entry in entries).most_common(1):
        if times > 1:
            raise UserError(path, f'has the {kind} id {number} {times} times', 'give each one a different id')


def _covers(counts: list[Any] | str, pixels: int) -> bool:
    """Whether run lengths, as a list or as pycocotools compresses them, add up to a number of pixels."""
    runs = _decompress(counts) if isinstance(counts, str) else counts
    return set(map(type, runs)) == {int} and min(runs) >= 0 and sum(runs) == pixels


def _decompress(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if _RLE.fullmatch(text) else b'':
        bits = code - 48
        value |= (bits & 31) << shift  # The lowest bits first.
        shift += 5
        if bits < 32:
            value -= 1 << shift if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
