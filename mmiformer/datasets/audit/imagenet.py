"""ImageNet-1k in class folders, for classification."""

import os
import re
from pathlib import Path

from rich.console import Console

from mmiformer.datasets.audit.images import examine, whole_image
from mmiformer.datasets.audit.layout import check_root, tell_missing, walk
from mmiformer.datasets.audit.report import Audit, Splits
from mmiformer.datasets.loading import IMAGE_SUFFIXES

OFFICIAL = {'train': 1_281_167, 'val': 50_000}
CLASSES = 1000
_CLASS = r'n\d{8}'  # WordNet's number of a class: n01440764


def audit_imagenet(root: Path, splits: Splits, decode: bool) -> Audit:
    """Checks ``{train,val}/n01440764/...``.

    Args:
        root: Folder of the data set.
        splits: Out of ``train`` and ``val``.
        decode: Whether to decode every image.
    """
    audit = Audit(root)
    remedy = 'put the class folders into train and val there, or give the folder of these as PATH'
    if not check_root(audit, tuple(OFFICIAL), remedy):
        return audit
    classes = {split: _check_split(audit, split, decode) for split in splits}
    for split, other in (('train', 'val'), ('val', 'train')):
        if classes.get(split) and classes.get(other):
            what = f'Class folders that {split} has and {other} lacks'
            audit.tell_of(what, classes[split] - classes[other], 'every split needs those of all classes')
    return audit


def _check_split(audit: Audit, split: str, decode: bool) -> set[str]:
    """Returns the names of the class folders; none if they are not where they belong."""
    folder = audit.root / split
    classes, files = _list_split(audit, split)
    images = {name for name in files if '/' in name and name.lower().endswith(IMAGE_SUFFIXES)}
    dangling = {name for name in files if '/' not in name and not (folder / name).exists()}
    audit.count(split, 'class folders', len(classes), CLASSES)
    audit.count(split, 'images', len(images), OFFICIAL[split])
    if not classes and not files:
        return classes
    what = f'Files in {split} that are no images of a class'
    audit.tell_of(what, files - images - dangling, 'they are not used', harmless=True)
    audit.tell_of(
        f'Class folders in {split} with names unlike n01440764',
        {name for name in classes if not re.fullmatch(_CLASS, name)},
        "rename them to WordNet's, since classes are numbered in the order of the names, and remove others",
    )
    if len(classes) != CLASSES:
        audit.tell(
            f'{folder}: {len(classes)} class folders, expected {CLASSES}; unpack the others, or for classes '
            'of your own see docs/own_classification_data.md.'
        )
    empty = classes - {name.partition('/')[0] for name in images}
    audit.tell_of(f'Class folders in {split} without an image', empty, 'unpack them again')

    def flaw_of(name: str) -> None:
        with whole_image(folder / name, decode):
            pass

    examine(audit, split, images | dangling, flaw_of)
    return classes


def _list_split(audit: Audit, split: str) -> tuple[set[str], set[str]]:
    """Returns class folders, and all files by their path in the split; nothing if the layout is wrong."""
    folder = audit.root / split
    if not folder.is_dir():
        tell_missing(audit, split, f'unpack ImageNet-1k there, with a folder for each of {CLASSES} classes')
        return set(), set()
    with Console(stderr=True).status(f'Listing {split}'):
        classes = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
        files = set(walk(folder))
    flat = {name for name in files if '/' not in name and (folder / name).exists()}
    nested = next((name for name in files if re.match(rf'(?!{_CLASS}/)[^/]+/{_CLASS}/', name)), None)
    if flat and all(name.startswith('.') for name in classes):
        audit.tell_of(
            f'Files that lie in {split} itself and not in class folders',
            flat,
            'for val, move the images into folders as the script valprep.sh does; for train, unpack each '
            'n01440764.tar into a folder of its name',
        )
    elif not classes and not files:
        audit.tell(f'{folder}: is empty; unpack ImageNet-1k there, with a folder for each class.')
    elif nested:
        below = folder / nested.partition('/')[0]
        audit.tell(f'{folder}: its class folders lie one folder too deep, in {below}; move them up.')
    else:
        return classes, files
    return set(), set()
