"""Reads label and colour masks for segmentation, and class folders for classification."""

import re
from collections import Counter
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath

import numpy as np

from mmiformer.datasets.loading import BROKEN, IGNORED, open_image
from mmiformer.datasets.own.folder import SPLIT_WORDS, Folder, OwnData, Sample, lines_of
from mmiformer.utils.errors import UserError, first_few

_VOID = {'void', 'unlabelled', 'unlabeled', 'ignore', 'ignored'}
_MOST_CLASSES = 255
_GREY = 0x010101  # A grey as a colour is its value times this.
# CamVid's "64 128 64 Animal", CVAT's "Animal:64,128,64::", a table's "Animal,64,128,64".
_COLOUR_LINE = re.compile(
    r'(?:(\w[^:,\d]*)[:,\s])?\s*(\d{1,3})[,\s]+(\d{1,3})[,\s]+(\d{1,3})(?:\s+(\w.*?))?[:,\s]*'
)


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask as int32 of H x W; colours as 0xRRGGBB.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with open_image(path) as image:
            labels = image.mode in ('1', 'L', 'P') or image.mode.startswith('I')
            array = np.array(image if labels else image.convert('RGB')).astype(np.int32)
    except BROKEN as error:
        raise UserError(path, 'not a readable mask', 'restore the file') from error
    return array if labels else array @ np.array([1 << 16, 1 << 8, 1], np.int32)


def names_of(folder: Folder) -> list[str]:
    """The lines of ``classes.txt``, ``labels.txt`` or ``obj.names``, if there is one."""
    for name in folder.files:
        if PurePosixPath(name).name in ('classes.txt', 'labels.txt', 'obj.names'):
            return lines_of(folder.root / name)
    return []


def read_label_masks(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads masks whose values or colours are classes."""
    masks = folder.masks()

    def count(name: str) -> dict[int, int]:
        try:
            values, numbers = np.unique(read_mask(folder.root / name), return_counts=True)
        except UserError:
            return {}
        return dict(zip(values.tolist(), numbers.tolist(), strict=True))

    with ThreadPool() as pool:
        counts = dict(zip(masks, pool.map(count, masks.values()), strict=True))
    total: Counter[int] = Counter()
    for found in counts.values():
        total.update(found)
    if not total:
        return None
    coloured = any(value % _GREY for value in total if value > 0xFF)
    names, values = _classes(sorted(total), folder, classes or names_of(folder), coloured)
    if not 2 <= len(names) <= _MOST_CLASSES:
        problem = f'its masks have {len(total):,} values, expected 2 to {_MOST_CLASSES} classes'
        raise UserError(folder.root, problem, 'save masks as PNG without smoothed edges; or see --task')
    odd = {value: f'#{value:06x}' if coloured else str(value) for value in total if value not in values}
    share = sum(total[value] for value in odd) / total.total()
    kind = f'Masks with {first_few(odd.values())}, no class and ignored ({share:.2%} of pixels)'
    samples = []
    for file, mask in masks.items():
        if counts[file]:
            samples.append(Sample(file, mask, folder.split(file)))
        else:
            folder.skip('Unreadable masks', mask)
        if counts[file].keys() & odd.keys():
            folder.skip(kind, mask)
    values = dict.fromkeys(total, IGNORED) | values
    pixels = [sum(total[v] for v, i in values.items() if i == index) for index in range(len(names))]
    if not coloured:
        return OwnData(folder, 'seg', 'label masks', names, samples, values, pixels)
    colours = [[v >> 16, v >> 8 & 255, v & 255] for v, i in sorted(values.items(), key=lambda p: p[1])]
    return OwnData(folder, 'seg', 'colour masks', names, samples, values, pixels, colours[: len(names)])


def read_class_folders(folder: Folder, task: str | None, classes: list[str]) -> OwnData | None:
    """Reads images in a folder for each class, below folders of splits or not."""
    parts = {name: PurePosixPath(name).parts for name in folder.sizes}
    while len({own[0] for own in parts.values()}) == 1 and min(map(len, parts.values())) > 1:
        parts = {name: own[1:] for name, own in parts.items()}  # Folders that hold all the rest.
    tops = {own[0] for own in parts.values() if len(own) > 1}
    in_splits = all(top.lower() in SPLIT_WORDS for top in tops)  # As a whole: test_tube is a class.
    samples = []
    for name, own in parts.items():
        if len(own) < (3 if in_splits else 2):
            folder.skip('Images in no class folder', name)
        else:
            samples.append(Sample(name, own[in_splits], SPLIT_WORDS[own[0].lower()] if in_splits else None))
    learnt = {sample.label for sample in samples if sample.split in (None, 'train')}
    for sample in samples:
        if sample.label not in learnt:
            folder.skip(f"Images of '{sample.label}', a class without training images", sample.file)
    samples = [sample for sample in samples if sample.label in learnt]
    return OwnData(folder, 'cls', 'class folders', sorted(learnt), samples) if len(learnt) > 1 else None


def _classes(
    found: list[int], folder: Folder, names: list[str], coloured: bool
) -> tuple[list[str], dict[int, int]]:
    """Names of the classes, and the index of each value that has one, or 255."""
    if coloured:
        names = names if len(names) == len(found) else [f'#{value:06x}' for value in found]
        name_of = _colours(folder) or dict(zip(found, names, strict=True))
        kept = [value for value, name in name_of.items() if name.lower() not in _VOID]
        indices = dict.fromkeys(name_of, IGNORED) | {value: i for i, value in enumerate(kept)}
        return [name_of[value] for value in kept], indices
    label_of = {value: value // _GREY if value > 0xFFFF else value for value in found}
    used = sorted(set(label_of.values()) - {IGNORED})
    if used in ([], [0]):  # Black and white.
        used = sorted(label_of.values())
        names = names if len(names) == 2 else ['background', 'foreground']
    if names and len(names) != len(used):
        used = list(range(len(names)))
    names = names or [f'class_{label}' for label in used]
    index_of = {IGNORED: IGNORED} | {label: i for i, label in enumerate(used)}
    return names, {value: index_of[label] for value, label in label_of.items() if label in index_of}


def _colours(folder: Folder) -> dict[int, str]:
    """Names of colours by 0xRRGGBB, from a text file with a line for each class."""
    for name in folder.named('.txt', '.csv'):
        if (folder.root / name).stat().st_size < 1 << 16:
            matches = filter(None, map(_COLOUR_LINE.fullmatch, lines_of(folder.root / name)))
            found = {
                int(m[2]) << 16 | int(m[3]) << 8 | int(m[4]): (m[1] or m[5] or '').strip() for m in matches
            }
            if len(found) > 1 and all(found.values()):
                return found
    return {}
