"""COCO 2017, for detection."""

import re
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from mmiformer.datasets.annotations import NO_CATEGORY, check_coco, read_coco
from mmiformer.datasets.audit.images import examine, whole_image
from mmiformer.datasets.audit.layout import check_root, files_in, in_other_folders, tell_missing
from mmiformer.datasets.audit.report import Audit, Flaw, Splits, first_few
from mmiformer.datasets.loading import IMAGE_SUFFIXES, shown_size
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import sha256_of


class Official(NamedTuple):
    """A split as it was published."""

    images: int
    instances: int
    sha256: str  # of its annotation file


# Hashes of the files in annotations_trainval2017.zip, whose MD5 is f4bbac642086de4f52a3fdda2de5fa2c
# (PaddleDetection, ppdet/data/tests/test_reader.py): as the Git LFS pointers of several people's copies say
# alike (Hugging Face: S3IC/coco, zhouyik/Match-R1).
OFFICIAL = {
    'train': Official(118_287, 860_001, '610fce4944abdeb15354cc765333805529359d12d88f2f711393ca586901d01d'),
    'val': Official(5_000, 36_781, 'e8c7f7908f1d7278341fae127d0da654f102f11bd7b21d8aeefa635b8c810b6f'),
}
# fmt: off
CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat', 'traffic light',
    'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog', 'horse', 'sheep', 'cow',
    'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella', 'handbag', 'tie', 'suitcase', 'frisbee',
    'skis', 'snowboard', 'sports ball', 'kite', 'baseball bat', 'baseball glove', 'skateboard', 'surfboard',
    'tennis racket', 'bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple',
    'sandwich', 'orange', 'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch',
    'potted plant', 'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote', 'keyboard',
    'cell phone', 'microwave', 'oven', 'toaster', 'sink', 'refrigerator', 'book', 'clock', 'vase', 'scissors',
    'teddy bear', 'hair drier', 'toothbrush',
)
# fmt: on
_UNPACK = 'unpack annotations_trainval2017.zip of COCO 2017 again'
_OTHER_SIZE = Flaw(
    'Images of another size than annotated in {}', 'unpack the original ones, since boxes would not fit these'
)


def audit_coco(root: Path, splits: Splits, decode: bool) -> Audit:
    """Checks ``annotations/instances_{train,val}2017.json`` and the images that they name.

    Args:
        root: Folder of the data set.
        splits: Out of ``train`` and ``val``.
        decode: Whether to decode every image.
    """
    audit = Audit(root)
    entries = ['annotations', *(f'{split}2017' for split in OFFICIAL)]
    if check_root(audit, entries, 'unpack COCO 2017 there, or give its folder as PATH'):
        on_disk = {
            folder: files_in(audit, folder, IMAGE_SUFFIXES, f'unpack {folder}.zip of COCO 2017 there', True)
            for folder in (f'{split}2017' for split in splits)
        }
        for split in splits:
            _check_split(audit, split, on_disk, decode)
    return audit


def _check_split(audit: Audit, split: str, on_disk: dict[str, set[str]], decode: bool) -> None:
    """Checks one split; ``on_disk`` are the names of the images by folder."""
    official, folder, entry = OFFICIAL[split], f'{split}2017', f'annotations/instances_{split}2017.json'
    other = 'val2017' if split == 'train' else 'train2017'
    here = on_disk[folder]
    sizes, instances = _read_annotations(audit, entry, official)
    audit.count(split, 'images on disk', len(here), official.images)
    audit.count(split, 'images annotated', len(sizes), official.images)
    audit.count(split, 'instances', instances, official.instances)
    if not here or not sizes:
        return
    unused = here - sizes.keys()
    # Annotations may also name files that are not listed, such as ../images/1.jpg.
    missing = {name for name in sizes.keys() - here if not (audit.root / folder / name).is_file()}
    if missing and missing <= on_disk.get(other, set()):
        what = f'Images that {entry} names and that lie in {other} instead of {folder}'
        remedy = 'give the folders, or the annotation files, the names of their own split'
        audit.tell_of(what, missing, remedy)
    elif in_other_folders(missing, unused):
        what = f'Images that {entry} names and that lie in another folder below {folder}'
        audit.tell_of(what, missing, 'move them to where it says')
    else:
        what = f'Images that {entry} names and {folder} lacks'
        audit.tell_of(what, missing, f'unpack {folder}.zip of COCO 2017 again')
        what = f'Images in {folder} that {entry} does not name'
        audit.tell_of(what, unused, 'they are not used', harmless=True)

    def flaw_of(name: str) -> Flaw | None:
        with whole_image(audit.root / folder / name, decode) as image:
            return None if shown_size(image) == sizes[name] else _OTHER_SIZE

    examine(audit, folder, sizes.keys() - missing, flaw_of)


def _read_annotations(audit: Audit, entry: str, official: Official) -> tuple[dict[str, tuple[int, int]], int]:
    """Returns width and height by image, none if the file cannot be used, and the number of instances."""
    path = audit.root / entry
    if not path.is_file():
        former = path.with_name(path.name.replace('2017', '2014'))
        if former.is_file():
            audit.tell(f'{path}: not found, only {former.name} of COCO 2014; {_UNPACK}.')
        else:
            tell_missing(audit, entry, _UNPACK)
        return {}, 0
    try:
        with Console(stderr=True).status(f'Reading {path.name}'):
            content = read_coco(path)
            skipped = check_coco(str(path), content, masks=True, evaluated=True)
    except UserError as error:
        audit.tell(f'{str(error).removesuffix(".")}, or {_UNPACK}.')
        return {}, 0
    sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
    number = len(content.get('annotations', []))
    if former_names := [name for name in sizes if re.match('COCO_(train|val)2014_', name)]:
        audit.tell_of(f'Images of COCO 2014 that {entry} names', former_names, _UNPACK)
        return {}, number
    if not sizes or not number:
        audit.tell(f'{path}: holds {len(sizes)} images and {number} instances; {_UNPACK}.')
    whole = (len(content['images']), number) == (official.images, official.instances)
    if whole and sha256_of(path) != official.sha256:
        audit.tell(
            f'{path}: has the official numbers of images and instances, but is not the official file '
            f'(SHA-256 {official.sha256[:8]}...); unless it was changed on purpose, {_UNPACK}.',
            harmless=True,
        )
    names = [category['name'] for category in content['categories']]
    absent = [name for name in CLASSES if name not in names]
    own = f'for classes of your own see docs/detection.md, else {_UNPACK}'
    if absent:
        audit.tell(
            f'{path}: its categories are {len(names)} ({", ".join(names[:3])}, ...), and {len(absent)} of '
            f"COCO's {len(CLASSES)} are not among them ({first_few(absent)}); {own}."
        )
    elif [name for name in names if name in CLASSES] != list(CLASSES):
        audit.tell(f"{path}: its categories are COCO's, but in another order; {own}.")
    what = f'Images with instances of a category that {entry} does not declare'
    audit.tell_of(what, set(skipped.get(NO_CATEGORY, ())), _UNPACK)
    return sizes, number
