"""ImageNet-1k in class folders, for classification."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmiformer.datasets.audit.images import DamagedError, examine, progress, read_size
from mmiformer.datasets.audit.layout import (
    check_root,
    is_dangling,
    tell_dangling,
    tell_missing,
    visible,
    walk,
)
from mmiformer.datasets.audit.report import Audit, Flaw, Splits
from mmiformer.datasets.loading import IMAGE_SUFFIXES

OFFICIAL = {'train': 1_281_167, 'val': 50_000}
CLASSES = 1000
_CLASS = re.compile(r'n\d{8}')  # WordNet's number of a class: n01440764


def audit_imagenet(root: Path, splits: Splits, decode: bool) -> Audit:
    """Looks at ``{train,val}/n01440764/...``.

    Args:
        root: Folder of the data set.
        splits: Out of ``train`` and ``val``.
        decode: Whether to decode every image.
    """
    audit = Audit(root)
    remedy = 'put the class folders into train and val there, or give the folder of these as PATH'
    if not check_root(audit, tuple(OFFICIAL), remedy):
        return audit
    classes: dict[str, set[str]] = {}
    for split in splits:
        images = _images_of(audit, split)
        audit.count(split, 'class folders', len(images or ()), CLASSES)
        audit.count(split, 'images', sum(map(len, (images or {}).values())), OFFICIAL[split])
        if images is None:
            continue
        classes[split] = set(images)
        _check_classes(audit, split, images)
        _check_images(audit, split, [name for names in images.values() for name in names], decode)
    for split, other in (('train', 'val'), ('val', 'train')):
        if len(classes) == 2:
            what = f'Class folders that {split} has and {other} lacks'
            audit.tell_of(what, classes[split] - classes[other], 'every split needs those of all classes')
    return audit


def _images_of(audit: Audit, split: str) -> dict[str, list[str]] | None:
    """Images of each class folder, by their path in the split; None if there are no class folders."""
    folder = audit.root / split
    if not folder.is_dir():
        tell_missing(audit, split, f'unpack ImageNet-1k there, with a folder for each of {CLASSES} classes')
        return None
    inside = visible(folder)
    images: dict[str, list[str]] = {entry.name: [] for entry in inside if entry.is_dir()}
    dangling = {entry.name for entry in inside if is_dangling(entry)}
    flat = {entry.name for entry in inside} - images.keys() - dangling
    if flat and all(name.startswith('.') for name in images):
        audit.tell_of(
            f'Files that lie in {split} itself and not in class folders',
            flat,
            'for val, move the images into folders as the script valprep.sh does; for train, unpack each '
            'n01440764.tar into a folder of its name',
        )
        return None
    if not images and not dangling:
        audit.tell(f'{folder}: is empty; unpack ImageNet-1k there, with a folder for each class.')
        return None
    for name in sorted(images):
        if not _CLASS.fullmatch(name) and any(_CLASS.fullmatch(e.name) for e in visible(folder / name)):
            audit.tell(
                f'{folder}: its class folders lie one folder too deep, in {folder / name}; move them up.'
            )
            return None
    others = flat
    for name in progress(images, f'Listing {split}'):
        for file, exists in walk(folder / name):
            path = f'{name}/{file}'
            if not file.lower().endswith(IMAGE_SUFFIXES):
                others.add(path)
            elif exists:
                images[name].append(path)
            else:
                dangling.add(path)
    tell_dangling(audit, split, dangling)
    audit.tell_of(
        f'Files in {split} that are no images of a class', others, 'they are not used', harmless=True
    )
    return images


def _check_classes(audit: Audit, split: str, images: dict[str, list[str]]) -> None:
    named = {name for name in images if _CLASS.fullmatch(name)}
    audit.tell_of(
        f'Class folders in {split} with names unlike n01440764',
        images.keys() - named,
        "rename them to WordNet's, since classes are numbered in the order of the names, and remove others",
    )
    if len(images) != CLASSES:
        audit.tell(
            f'{audit.root / split}: {len(images)} class folders, expected {CLASSES}; unpack the others, or '
            'for classes of your own see docs/own_classification_data.md.'
        )
    empty = [name for name, files in images.items() if not files]
    audit.tell_of(f'Class folders in {split} without an image', empty, 'unpack them again')


def _check_images(audit: Audit, split: str, names: list[str], decode: bool) -> None:
    def inspect(name: str) -> Iterator[tuple[Flaw, str, str]]:
        try:
            read_size(audit.root / split / name, decode, turned=False)
        except DamagedError as error:
            yield error.flaw, split, name

    examine(audit, f'Looking at {split}', inspect, names)
