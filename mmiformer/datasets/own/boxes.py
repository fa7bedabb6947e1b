"""Reads boxes and instance masks: COCO's JSON, Pascal VOC's XML, YOLO's text, and PNGs of instances."""

import re
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import ParseError, parse

import cv2
import numpy as np
import yaml

from mmiformer.datasets.annotations import check_coco, read_coco, run_lengths
from mmiformer.datasets.own.folder import Folder, OwnData, Sample, lines_of, split_of
from mmiformer.datasets.own.masks import names_of, read_mask
from mmiformer.utils.errors import UserError

_MOST_JSONS = 20  # To read, largest first: other formats have a JSON file for each image.
_LINE = re.compile(r'\d+(\s+[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?){4,}', re.ASCII)


def read_coco_json(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads COCO's format: one JSON file, or one for each split. Images without objects are used."""
    names = sorted(folder.named('.json'), key=lambda name: -(folder.root / name).stat().st_size)
    contents = {}
    for name in names[:_MOST_JSONS]:
        try:
            contents[name] = read_coco(folder.root / name)
        except UserError:
            folder.skip('JSON files that are not readable in the format of COCO', name)
    if not contents:
        return None
    # COCO has others beside: person_keypoints_train2017.json.
    contents = {name: c for name, c in contents.items() if 'instances' in name} or contents
    annotations = [a for content in contents.values() for a in content['annotations'] if isinstance(a, dict)]
    masked = sum(bool(annotation.get('segmentation')) for annotation in annotations)
    task = task or ('ins' if 2 * masked > len(annotations) else 'det')
    by_name: dict[str, list[str]] = {}
    for file in folder.sizes:
        by_name.setdefault(PurePosixPath(file).name, []).append(file)
    samples: dict[str, Sample] = {}
    categories: dict[str, None] = {}
    for name, content in sorted(contents.items()):
        split, by_id = split_of(name), dict[Any, Sample]()
        try:
            known = {category['id']: str(category['name']) for category in content['categories']}
            categories |= dict.fromkeys(known.values())
        except (LookupError, TypeError) as error:
            problem = 'has a category without id or name'
            raise UserError(folder.root / name, problem, 'correct the file') from error
        for image in content['images']:
            try:
                wanted, size = str(image['file_name']).replace('\\', '/'), (image['width'], image['height'])
                found = by_name.get(PurePosixPath(wanted).name, [])
                inside = [f for f in found if f'/{f}'.endswith('/' + wanted.lstrip('./'))] or found
                own = [f for f in inside if split in (None, folder.split(f))] or inside
                near = f'{PurePosixPath(name).parent}/'  # Exports may repeat the names in their own folders.
                own = [f for f in own if f.startswith(near)] or own
                if len(own) > 1:
                    folder.skip('Annotated images whose name is not unique', wanted)
                elif not own:
                    folder.skip('Annotated images that do not exist or are broken', wanted)
                elif size != folder.sizes[own[0]]:
                    folder.skip('Images of another size than annotated', own[0])
                elif own[0] in samples:
                    folder.skip('Images annotated twice', own[0])
                else:
                    sample = Sample(own[0], [], split or folder.split(own[0]))
                    by_id[image['id']] = samples[sample.file] = sample
            except (LookupError, TypeError):
                folder.skip('Images without id, file_name, width or height', name)
        for annotation in content['annotations']:
            try:
                owner, label = by_id.get(annotation['image_id']), known.get(annotation['category_id'])
                if label is None:
                    folder.skip('Objects of an undeclared category', name)
                elif owner:
                    keys = ('bbox', 'segmentation', 'area', 'iscrowd')
                    kept = {key: annotation[key] for key in keys if annotation.get(key)}
                    _add(folder, owner, label, kept, task, owner.file)
            except (LookupError, TypeError):
                folder.skip('Objects without image_id or category_id', name)
    for file in folder.sizes.keys() - samples.keys():
        folder.skip('Images that no JSON file names', file)
    return _finish(folder, task, 'COCO json', list(categories), samples.values())


def read_voc(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads Pascal VOC's format: an XML file for each image."""
    files = folder.pair(folder.sizes, folder.named('.xml'))
    samples = []
    for file, name in files.items():
        sample = Sample(file, [], folder.split(file))
        try:
            root = parse(folder.root / name).getroot()
            size = tuple(int(float(root.findtext(f'size/{side}') or 0)) for side in ('width', 'height'))
            if root.tag != 'annotation':
                raise ValueError
            if all(size) and size != folder.sizes[file]:
                folder.skip('Images of another size than annotated', file)
                continue
            for element in root.iterfind('object'):
                sides = ('xmin', 'ymin', 'xmax', 'ymax')  # VOC counts pixels from 1.
                x1, y1, x2, y2 = (float(element.findtext(f'bndbox/{side}', '')) - 1 for side in sides)
                crowd = int(element.findtext('difficult', '').strip() == '1')  # Neither counts in COCO's AP.
                found = dict(bbox=[x1, y1, x2 - x1, y2 - y1], iscrowd=crowd)
                _add(folder, sample, element.findtext('name', '').strip(), found, 'det', name)
            samples.append(sample)
        except (ParseError, OSError, ValueError, LookupError, OverflowError):
            folder.skip('Unreadable XML files', name)
    if not samples:
        return None
    _name_unpaired(folder, files, '.xml')
    return _finish(folder, 'det', 'Pascal VOC', None, samples)


def read_yolo(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads YOLO's format: for each image a text file with a line for each box or polygon."""
    files = folder.pair(folder.sizes, folder.named('.txt'))
    lines = {image: lines_of(folder.root / name) for image, name in files.items()}
    if not any(_LINE.fullmatch(own[0]) for own in lines.values() if own):
        return None
    names = classes or _yaml_names(folder) or names_of(folder)
    polygons = sum(len(line.split()) > 5 for own in lines.values() for line in own)
    task = task or ('ins' if 2 * polygons > sum(map(len, lines.values())) else 'det')
    samples, used = [], 0
    for file, name in files.items():
        sample = Sample(file, [], folder.split(file))
        width, height = folder.sizes[file]
        for line in lines[file]:
            if not _LINE.fullmatch(line) or (len(line.split()) > 5 and len(line.split()) % 2 == 0):
                folder.skip('Lines that are no box or polygon of YOLO', name)
                continue
            index, numbers = int(line.split()[0]), np.array(line.split()[1:], float)
            if names and index >= len(names):
                folder.skip(f'Objects of a class above {len(names) - 1}', name)
            elif numbers.min() < -0.01 or numbers.max() > 1.01:
                folder.skip('Objects with coordinates that are not between 0 and 1', name)
            else:
                used = max(used, index + 1)
                found = _from_yolo(numbers * ([width, height] * (len(numbers) // 2)))
                _add(folder, sample, names[index] if names else f'class_{index}', found, task, name)
        samples.append(sample)
    _name_unpaired(folder, files, '.txt (an empty one means no objects)')
    return _finish(folder, task, 'YOLO txt', names or [f'class_{i}' for i in range(used)], samples)


def read_instances(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads masks in which each object has a number, or a colour, of its own, and 0 is the background."""
    from pycocotools import mask as rle  # Comes with mmdet.

    masks = folder.masks()
    if not masks or (task is None and not _are_instances(folder, list(masks.values())[:_MOST_JSONS])):
        return None
    samples, label = [], (classes or ['object'])[0]
    for file, name in masks.items():
        sample, pixels = Sample(file, [], folder.split(file)), read_mask(folder.root / name)
        for value in np.unique(pixels[pixels > 0]):
            runs = run_lengths(pixels == value)
            found = dict(bbox=rle.toBbox(runs).tolist(), area=int(rle.area(runs)), segmentation=runs)
            _add(folder, sample, label, found, task or 'ins', name)
        samples.append(sample)
    return _finish(folder, task or 'ins', 'instance masks', [label], samples)


def _add(folder: Folder, sample: Sample, label: str, found: dict[str, Any], task: str, source: str) -> None:
    """Adds an object to an image if it passes the checks of data sets."""
    if task == 'det':
        found.pop('segmentation', None)
    try:
        area = found.get('area') or found['bbox'][2] * found['bbox'][3]
        found = dict(dict(area=area, iscrowd=0), **found)
        width, height = folder.sizes[sample.file]
        image = dict(id=1, file_name=sample.file, width=width, height=height)
        content = dict(images=[image], categories=[dict(id=1, name=label)])
        content['annotations'] = [dict(found, id=1, image_id=1, category_id=1)]
        kinds = list(check_coco(source, content, masks=task == 'ins', evaluated=True))
    except (UserError, LookupError, TypeError):
        kinds = ['Objects without a correct box' + (' or mask' if task == 'ins' else '')]
    for kind in kinds:
        folder.skip(kind[0].upper() + kind[1:], source)
    if not kinds:
        sample.label.append((label, found))


def _finish(folder: Folder, task: str, form: str, declared: list[str] | None, samples: Any) -> OwnData:
    present = {label for sample in samples for label, _ in sample.label}
    for name in set(declared or ()) - present:
        folder.skip('Classes without an object', f"'{name}'")
    classes = [name for name in declared or sorted(present) if name in present]
    return OwnData(folder, task, form, classes, list(samples))


def _name_unpaired(folder: Folder, files: dict[str, str], kind: str) -> None:
    for name in folder.sizes.keys() - files.keys():
        folder.skip(f'Images without a {kind}', name)


def _from_yolo(numbers: np.ndarray) -> dict[str, Any]:
    if len(numbers) == 4:
        x, y, w, h = numbers.tolist()
        return dict(bbox=[x - w / 2, y - h / 2, w, h])
    points = numbers.reshape(-1, 2)
    (x, y), (w, h) = points.min(0).tolist(), np.ptp(points, 0).tolist()
    area = float(cv2.contourArea(points.astype(np.float32)))
    return dict(bbox=[x, y, w, h], segmentation=[numbers.tolist()], area=area)


def _yaml_names(folder: Folder) -> list[str]:
    for name in folder.named('.yaml', '.yml'):
        try:
            names = yaml.safe_load((folder.root / name).read_text(encoding='utf-8'))['names']
            return (
                [str(names[key]) for key in sorted(names)] if isinstance(names, dict) else [*map(str, names)]
            )
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
            folder.skip('YAML files without names of classes', name)
    return []


def _are_instances(folder: Folder, masks: list[str]) -> bool:
    """Whether the values of each mask are 1, 2, ..., n, nearly all in one piece, with different n."""
    numbers, pieces = [], 0
    for name in masks:
        pixels = read_mask(folder.root / name)
        values = np.unique(pixels[pixels > 0])
        if values.tolist() != list(range(1, len(values) + 1)):
            return False
        numbers.append(len(values))
        pieces += sum(cv2.connectedComponents((pixels == v).astype(np.uint8))[0] - 1 for v in values)
    return len(set(numbers)) > 1 and pieces <= 1.5 * sum(numbers)
