"""The files in a folder of your own data: intact images, their splits, and the label file of each."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mmengine.fileio import list_dir_or_file
from PIL import Image
from rich.console import Console
from rich.table import Column, Table

from mmiformer.datasets.audit.files import check_images
from mmiformer.datasets.audit.report import Audit
from mmiformer.datasets.loading import IMAGE_SUFFIXES, shown_size
from mmiformer.utils.errors import UserError, first_few
from mmiformer.utils.files import sha256_of

SPLITS = ('train', 'val', 'test')
SPLIT_WORDS = {
    **dict(train='train', training='train', test='test', testing='test'),
    **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
}
_MASKS = r'masks?|labels?|label+ed|ann|annotations?|gt|seg|segmentations?|instances?|trimaps|l'
_IS_MASK = re.compile(_MASKS)
_IS_KIND = re.compile(rf'{_MASKS}|images?|img|imgs|jpeg|png|rgb|photos?')  # Of files, not of the image.
_TOKEN = re.compile(r'[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+')
_VAL_SHARE = 0.2


def lines_of(file: Path) -> list[str]:
    """The lines of a text file that are not empty, without outer spaces."""
    text = file.read_text(encoding='utf-8-sig', errors='replace')
    return [line.strip() for line in text.splitlines() if line.strip()]


def words_of(name: str) -> list[str]:
    """The words of a name in lower case: of ``PNGImages_01`` these are png, images, 01."""
    return [token.lower() for token in _TOKEN.findall(name)]


@cache
def split_of(path: str) -> str | None:
    """The split that a file, or else its folder, is named after, e.g. ``instances_val2017.json``."""
    words = [word for part in reversed(path.split('/')) for word in words_of(part)]
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


@dataclass
class Sample:
    """An image with its labels.

    Attributes:
        file: Path relative to the folder.
        label: Depends on the task: objects as pairs of a class and an annotation in COCO's format; path of a
            mask; name of a class.
        split: Out of :data:`SPLITS`, if known.
    """

    file: str
    label: Any
    split: str | None


@dataclass
class OwnData:
    """Your own data, as read.

    Attributes:
        folder: Its files, and what was skipped of them.
        task: ``det``, ``ins``, ``seg`` or ``cls``.
        format: Of the labels, in words.
        classes: Names in the order of the labels.
        samples: Images with labels.
        values: Index of the class, or 255, by the value in the masks.
        pixels: Their number for each class, over all masks.
        colours: RGB of each class, if the masks have colours.
    """

    folder: 'Folder'
    task: str
    format: str
    classes: list[str]
    samples: list[Sample]
    values: dict[int, int] = field(default_factory=dict)
    pixels: list[int] = field(default_factory=list)
    colours: list[list[int]] = field(default_factory=list)

    def of(self, split: str | None) -> list[Sample]:
        """The samples of a split."""
        return [sample for sample in self.samples if sample.split == split]

    @property
    def summary(self) -> str:
        """Format and numbers."""
        numbers = ' + '.join(f'{len(self.of(split)):,} {split}' for split in SPLITS if self.of(split))
        objects = sum(len(s.label) for s in self.samples) if self.task in ('det', 'ins') else 0
        of = f' with {objects:,} objects' if objects else ''
        return f'{self.folder.root}: {self.format}, {numbers} images{of} of {len(self.classes)} classes'

    def print(self) -> None:
        """Prints images, and objects or images of each class, by split; what is left out; and a summary."""
        splits = [split for split in SPLITS if self.of(split)]
        table = Table('', *(Column(split, justify='right') for split in splits))
        table.add_row('images', *(f'{len(self.of(split)):,}' for split in splits))
        counts: Counter[tuple[str | None, str]] = Counter()
        for sample in self.samples if self.task != 'seg' else ():
            labels = [sample.label] if self.task == 'cls' else [name for name, _ in sample.label]
            counts.update((sample.split, label) for label in labels)
        for name in self.classes if counts else ():
            table.add_row(name, *(f'{counts[split, name]:,}' for split in splits))
        Console().print(table)
        print(*(f'note: {note}' for note in self.folder.notes()), self.summary, sep='\n')

    def drop_copies(self) -> None:
        """Leaves images out that are copies of others, or whose names a list could not hold."""
        first: dict[str, Sample] = {}
        self.samples.sort(key=lambda s: (SPLITS.index(s.split) if s.split else len(SPLITS), s.file))
        for sample in self.samples:
            if sample.file != sample.file.strip() or '\n' in sample.file:
                self.folder.skip('Images with outer spaces or line breaks in their names', sample.file)
                continue
            original = first.setdefault(sha256_of(self.folder.root / sample.file), sample)
            if original is not sample:
                other = self.task == 'cls' and original.label != sample.label
                where = 'in another class' if other else 'which would leak into other splits'
                self.folder.skip(f'Copies of other images, {where}', sample.file)
        self.samples = list(first.values())

    def split(self, group: str | None, seed: int) -> None:
        """Makes a validation split unless there is one: a fifth of the training images, of each class.

        Args:
            group: Regular expression that finds in an image's path what it shares with others that must stay
                in one split, such as the name of a film: its first group, or all of it.
            seed: Of the split.

        Raises:
            UserError: If ``group`` cannot be used, or too few images are left.
        """
        if not self.of('train'):
            for sample in self.of(None) or self.samples:
                sample.split = 'train'
        if self.of('val'):
            if group:
                raise UserError('--group', 'there is a validation split already', 'leave it out')
        else:
            units: dict[str, list[Sample]] = defaultdict(list)  # Of images that stay together.
            for sample in self.of('train'):
                units[_first_group(group, sample.file) if group else sample.file].append(sample)
            if group and len(units) < 2:
                problem = f"finds '{next(iter(units), '')}' in every path"
                raise UserError(f'--group {group}', problem, 'change it so that it tells films apart')
            strata: dict[str, list[list[Sample]]] = defaultdict(list)
            for unit in units.values():
                strata[unit[0].label if self.task == 'cls' else ''].append(unit)
            generator = np.random.default_rng(seed)
            for stratum in strata.values():
                images = sum(map(len, stratum))
                missing = max(1, round(_VAL_SHARE * images))
                for i in generator.permutation(len(stratum)):
                    if missing > 0 and 2 * len(stratum[i]) <= images:  # Most images stay in any case.
                        missing -= len(stratum[i])
                        for sample in stratum[i]:
                            sample.split = 'val'
        for sample in self.of(None):
            self.folder.skip('Images in none of the splits', sample.file)
        if len(self.of('train')) < 2 or not self.of('val'):
            problem = f'{len(self.samples)} usable images are too few; ' + '; '.join(self.folder.notes())
            raise UserError(self.folder.root, problem.strip('; '), 'add images with labels')


class Folder:
    """Lists and checks the files of a folder.

    Args:
        root: The folder.

    Attributes:
        files: Paths of all files, relative to it.
        sizes: Width and height of each intact image.
        skipped: Names of what is not used, by a description.

    Raises:
        UserError: If there is no such folder, or no image in it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(root, f'no such folder (looked for from {Path.cwd()})', 'name that of your data')
        self.root = root
        self.files = sorted(list_dir_or_file(root, list_dir=False, recursive=True))
        sizes: dict[str, tuple[int, int]] = {}

        def inspect(name: str, image: Image.Image) -> None:
            sizes[name] = shown_size(image)

        audit = Audit(root, (), decode=False)
        check_images(audit, '', self.named(*IMAGE_SUFFIXES, '.gif'), inspect)
        self.sizes = dict(sorted(sizes.items()))  # Threads finish in any order.
        self.skipped: dict[str, list[str]] = defaultdict(list)
        self._broken = [error.replace(' in :', ':') for error in audit.errors]
        if not sizes:
            problem = f'holds no intact image ({", ".join(IMAGE_SUFFIXES)}) among {len(self.files)} files'
            raise UserError(root, problem, 'name the folder of your images and labels')
        self._listed: dict[str, str] = {}
        for file in map(PurePosixPath, self.named('.txt')):
            for line in lines_of(root / file) if file.stem in SPLIT_WORDS else ():
                name = PurePosixPath(line)
                stem = name.stem if name.suffix.lower() in IMAGE_SUFFIXES else name.name
                self._listed[stem] = SPLIT_WORDS[file.stem]

    def skip(self, kind: str, name: str) -> None:
        """Notes a file, or an object in it, that is not used."""
        self.skipped[kind].append(name)

    def notes(self) -> list[str]:
        """What is not used: each kind with its number and the first files."""
        kinds = sorted(self.skipped.items())
        return [*self._broken, *(f'{kind}: {len(n):,} ({first_few(set(n))}).' for kind, n in kinds)]

    def named(self, *suffixes: str) -> list[str]:
        """The files that end so, in lower or upper case."""
        return [name for name in self.files if name.lower().endswith(suffixes)]

    def split(self, file: str) -> str | None:
        """The split of an image by lists such as ``ImageSets/Main/train.txt``, else by its folders."""
        path = PurePosixPath(file)
        return self._listed.get(path.stem) or split_of(str(path.parent))

    def labelled(self, suffix: str) -> Iterator[tuple[str, str]]:
        """Each image with its label file of a suffix, and notes those that have none."""
        found = _pair(self.sizes, self.named(suffix))
        for name in self.sizes.keys() - found.keys():
            self.skip(f'Images without a {suffix} of labels (an empty one means no objects)', name)
        yield from found.items()

    def masks(self) -> dict[str, str]:
        """The mask of each image, where masks are called such and most of the other images have one."""
        masks = {name for name in self.sizes if any(map(_IS_MASK.fullmatch, words_of(name)))}
        images = [name for name in self.sizes if name not in masks]
        found = _pair(images, masks)
        if 2 * len(found) < len(images):
            return {}
        for name in set(images) - found.keys():
            self.skip('Images without mask', name)
        for name in masks - set(found.values()):
            self.skip('Masks without image', name)
        for image, mask in found.items():
            if self.sizes[image] != self.sizes[mask]:
                self.skip('Masks of another size than their image', mask)
        return {image: mask for image, mask in found.items() if self.sizes[image] == self.sizes[mask]}


def _first_group(pattern: str, file: str) -> str:
    try:
        found = re.search(pattern, file)
    except re.error as error:
        raise UserError(f'--group {pattern}', f'not a regular expression ({error})', 'correct it') from error
    if not found:
        raise UserError(f'--group {pattern}', f'finds nothing in {file}', 'correct it')
    return found[1] if found.re.groups else found[0]


def _pair(images: Collection[str], labels: Collection[str]) -> dict[str, str]:
    """The label file of each image: of the same name, or of one that differs by words such as mask.

    Folders may differ by such words, too, or else altogether; what finds most is taken.
    """
    best: dict[str, str] = {}
    for by_folders, exact in product((True, False), (True, False)) if labels else ():
        by_key = [_by_key(names, by_folders, exact) for names in (images, labels)]
        found = {by_key[0][key]: by_key[1][key] for key in by_key[0].keys() & by_key[1].keys()}
        best = found if len(found) > len(best) else best
    return dict(sorted(best.items()))


def _by_key(names: Collection[str], by_folders: bool, exact: bool) -> dict[Any, str]:
    keys: dict[Any, list[str]] = defaultdict(list)
    for name in names:
        *folders, stem = PurePosixPath(name).with_suffix('').parts
        words = [_own_words(part) for part in (folders if by_folders else ())]
        key = split_of('/'.join(folders)), stem if exact else _own_words(stem), tuple(filter(None, words))
        keys[key].append(name)
    return {key: same[0] for key, same in keys.items() if len(same) == 1}


def _own_words(name: str) -> str:
    return ' '.join(word for word in words_of(name) if not _IS_KIND.fullmatch(word))
