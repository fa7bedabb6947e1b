"""Reads boxes and instance masks: COCO's JSON, Pascal VOC's XML, YOLO's text, and PNGs of instances."""

import re
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError, parse

import cv2
import numpy as np
import yaml

from mmiformer.datasets.annotations import check_coco, read_coco, run_lengths
from mmiformer.datasets.own.folder import Folder, OwnData, Sample, lines_of, split_of
from mmiformer.datasets.own.masks import names_of, read_mask
from mmiformer.utils.errors import UserError

_MOST = 20  # JSON files to read, largest first: other formats have one for each image.
_LINE = re.compile(r'\d+(\s+[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?){4,}', re.ASCII)


def read_coco_json(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads COCO's format: one JSON file, or one for each split. Images without objects are used."""
    contents = {}
    for name in sorted(folder.named('.json'), key=lambda n: -(folder.root / n).stat().st_size)[:_MOST]:
        try:
            contents[name] = read_coco(folder.root / name)
        except UserError:
            folder.skip('JSON files that are not readable in the format of COCO', name)
    if not contents:
        return None
    # COCO has others beside: person_keypoints_train2017.json.
    contents = {name: c for name, c in contents.items() if 'instances' in name} or contents
    by_name: dict[str, list[str]] = {}
    for file in folder.sizes:
        by_name.setdefault(PurePosixPath(file).name, []).append(file)
    samples: dict[str, Sample] = {}
    categories: dict[str, None] = {}
    for name, content in sorted(contents.items()):
        check_coco(str(folder.root / name), dict(content, annotations=[]))
        labels = {category['id']: category['name'] for category in content['categories']}
        categories |= dict.fromkeys(labels.values())
        owners: dict[Any, Sample | None] = {}
        for image in content['images']:
            owners[image['id']] = None
            wanted = image['file_name'].replace('\\', '/').lstrip('./')
            found = _find(folder, by_name.get(PurePosixPath(wanted).name, []), wanted, name)
            if len(found) > 1:
                folder.skip('Annotated images whose name is not unique', wanted)
            elif not found:
                folder.skip('Annotated images that do not exist or are broken', wanted)
            elif (image['width'], image['height']) != folder.sizes[found[0]]:
                folder.skip('Images of another size than annotated', found[0])
            elif found[0] in samples:
                folder.skip('Images annotated twice', found[0])
            else:
                sample = Sample(found[0], [], split_of(name) or folder.split(found[0]))
                owners[image['id']] = samples[sample.file] = sample
        for annotation in content['annotations']:
            try:
                owner, label = owners[annotation['image_id']], labels[annotation['category_id']]
            except (LookupError, TypeError):
                folder.skip('Objects of an undeclared image or category', name)
            else:
                if owner:
                    keys = ('bbox', 'segmentation', 'area', 'iscrowd')
                    owner.label.append((label, {k: annotation[k] for k in keys if annotation.get(k)}))
    for file in folder.sizes.keys() - samples.keys():
        folder.skip('Images that no JSON file names', file)
    return _checked(folder, task, 'COCO json', list(samples.values()), list(categories))


def _find(folder: Folder, files: list[str], wanted: str, source: str) -> list[str]:
    """Those of the files of a name that are meant: exports repeat names in folders of splits or their own."""
    split, near = split_of(source), source.rpartition('/')[0]
    for fits in (
        lambda file: f'/{file}'.endswith(f'/{wanted}'),
        lambda file: split in (None, folder.split(file)),
        lambda file: file.startswith(f'{near}/'),
    ):
        files = list(filter(fits, files)) or files
    return files


def read_voc(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads Pascal VOC's format: an XML file for each image."""
    samples = []
    for file, name in folder.labelled('.xml'):
        try:
            root = parse(folder.root / name).getroot()
            size = tuple(int(float(root.findtext(f'size/{side}') or 0)) for side in ('width', 'height'))
            if root.tag != 'annotation':
                raise ValueError
            sample = Sample(file, [_from_voc(e) for e in root.iterfind('object')], folder.split(file))
        except (ParseError, OSError, ValueError, LookupError, OverflowError):
            folder.skip('Unreadable XML files', name)
        else:
            if all(size) and size != folder.sizes[file]:
                folder.skip('Images of another size than annotated', file)
            else:
                samples.append(sample)
    return _checked(folder, 'det', 'Pascal VOC', samples) if samples else None


def read_yolo(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads YOLO's format: for each image a text file with a line for each box or polygon."""
    files = {file: lines_of(folder.root / name) for file, name in folder.labelled('.txt')}
    if not any(_LINE.fullmatch(lines[0]) for lines in files.values() if lines):
        return None
    names, used, samples = classes or _yaml_names(folder) or names_of(folder), 0, []
    for file, lines in files.items():
        samples.append(Sample(file, [], folder.split(file)))
        for line in lines:
            index, *numbers = line.split()
            if not _LINE.fullmatch(line) or len(numbers) > 4 and len(numbers) % 2:
                folder.skip('Lines that are no box or polygon of YOLO', file)
            elif names and int(index) >= len(names):
                folder.skip(f'Objects of a class above {len(names) - 1}', file)
            else:
                points = np.array(numbers, float).reshape(-1, 2)
                if points.min() < -0.01 or points.max() > 1.01:
                    folder.skip('Objects with coordinates that are not between 0 and 1', file)
                    continue
                used = max(used, int(index) + 1)
                label = names[int(index)] if names else f'class_{index}'
                samples[-1].label.append((label, _from_yolo(points * folder.sizes[file])))
    return _checked(folder, task, 'YOLO txt', samples, names or [f'class_{i}' for i in range(used)])


def read_instances(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads masks in which each object has a number, or a colour, of its own, and 0 is the background."""
    from pycocotools import mask as coco  # Comes with mmdet.

    masks = folder.masks()
    if not masks or (task is None and not _are_instances(folder, list(masks.values())[:_MOST])):
        return None
    samples, label = [], (classes or ['object'])[0]
    for file, name in masks.items():
        pixels = read_mask(folder.root / name)
        found = [run_lengths(pixels == value) for value in np.unique(pixels[pixels > 0])]
        objects = [dict(bbox=coco.toBbox(m).tolist(), area=int(coco.area(m)), segmentation=m) for m in found]
        samples.append(Sample(file, [(label, found) for found in objects], folder.split(file)))
    return _checked(folder, task or 'ins', 'instance masks', samples)


def _checked(
    folder: Folder, task: str | None, form: str, samples: list[Sample], declared: list[str] | None = None
) -> OwnData:
    """Leaves out objects that data sets would refuse or skip, and classes that have none."""
    objects = [found for sample in samples for _, found in sample.label]
    task = task or ('ins' if 2 * sum('segmentation' in found for found in objects) > len(objects) else 'det')
    present = set()
    for sample in samples:
        width, height = folder.sizes[sample.file]
        image = dict(id=1, file_name=sample.file, width=width, height=height)
        kept = []
        for label, found in sample.label:
            if task == 'det':
                found.pop('segmentation', None)
            content = dict(images=[image], categories=[dict(id=1, name=label)])
            try:
                area = found['bbox'][2] * found['bbox'][3]
                found = {'area': area, 'iscrowd': 0, **found}
                content['annotations'] = [dict(found, id=1, image_id=1, category_id=1)]
                kinds = list(check_coco(sample.file, content, masks=task == 'ins', evaluated=True))
            except (UserError, LookupError, TypeError):
                kinds = ['objects without a correct box' + (' or mask' if task == 'ins' else '')]
            for kind in kinds:
                folder.skip(kind[0].upper() + kind[1:], sample.file)
            if not kinds:
                kept.append((label, found))
                present.add(label)
        sample.label = kept
    for label in set(declared or ()) - present:
        folder.skip('Classes without an object', f"'{label}'")
    classes = [label for label in declared or sorted(present) if label in present]
    return OwnData(folder, task, form, classes, samples)


def _from_voc(element: Element) -> tuple[str, dict[str, Any]]:
    sides = ('xmin', 'ymin', 'xmax', 'ymax')  # VOC counts pixels from 1.
    x1, y1, x2, y2 = (float(element.findtext(f'bndbox/{side}', '')) - 1 for side in sides)
    crowd = int(element.findtext('difficult', '').strip() == '1')  # Neither counts in COCO's AP.
    return element.findtext('name', '').strip(), dict(bbox=[x1, y1, x2 - x1, y2 - y1], iscrowd=crowd)


def _from_yolo(points: np.ndarray) -> dict[str, Any]:
    if len(points) == 2:
        (x, y), (w, h) = points.tolist()
        return dict(bbox=[x - w / 2, y - h / 2, w, h])
    area = float(cv2.contourArea(points.astype(np.float32)))
    bbox = [*points.min(0).tolist(), *np.ptp(points, 0).tolist()]
    return dict(bbox=bbox, segmentation=[points.ravel().tolist()], area=area)


def _yaml_names(folder: Folder) -> list[str]:
    for name in folder.named('.yaml', '.yml'):
        try:
            names = yaml.safe_load((folder.root / name).read_text(encoding='utf-8'))['names']
            return [str(names[i]) for i in (sorted(names) if isinstance(names, dict) else range(len(names)))]
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
