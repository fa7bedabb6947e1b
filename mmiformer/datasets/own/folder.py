"""The files in a folder of your own data: intact images, their splits, and the label file of each."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mmengine.fileio import list_dir_or_file
from PIL import Image

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


def split_of(path: str) -> str | None:
    """The split that a folder or the file itself is named after, e.g. ``instances_val2017.json``."""
    words = [word for part in reversed(PurePosixPath(path).parts) for word in words_of(part)]
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
    split: str | None = None


@dataclass
class OwnData:
    """Your own data, as read.

    Attributes:
        folder: Its files, and what was skipped of them.
        task: ``det``, ``ins``, ``seg`` or ``cls``.
        format: Of the labels, in words.
        classes: Names in the order of the labels.
        samples: Images with labels.
        colours: RGB of each class, if the masks have colours.
        values: Index of the class, or 255, by the value in the masks.
        pixels: Their number for each class, over all masks.
    """

    folder: 'Folder'
    task: str
    format: str
    classes: list[str]
    samples: list[Sample]
    colours: list[list[int]] = field(default_factory=list)
    values: dict[int, int] = field(default_factory=dict)
    pixels: list[int] = field(default_factory=list)

    def of(self, split: str | None) -> list[Sample]:
        """The samples of a split."""
        return [sample for sample in self.samples if sample.split == split]


class Folder:
    """Lists and checks the files of a folder.

    Args:
        root: The folder.

    Raises:
        UserError: If there is no such folder, or no image in it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(root, f'no such folder (looked for from {Path.cwd()})', 'name that of your data')
        self.root = root
        self.skipped: dict[str, list[str]] = defaultdict(list)
        self.sizes: dict[str, tuple[int, int]] = {}  # Width and height of the intact images.
        self._first: dict[str, str] = {}  # Image by its hash.
        self.files = sorted(list_dir_or_file(root, list_dir=False, recursive=True))
        names = self.named(*IMAGE_SUFFIXES, '.gif')

        def inspect(name: str, image: Image.Image) -> None:
            self.sizes[PurePosixPath(name).relative_to(root.name).as_posix()] = shown_size(image)

        audit = Audit(root.parent, (), decode=False)
        check_images(audit, '', [f'{root.name}/{name}' for name in names], inspect)
        self.sizes = dict(sorted(self.sizes.items()))  # Threads finish in any order.
        self.broken = [error.replace(' in :', ':') for error in audit.errors]
        if not self.sizes:
            problem = f'holds no intact image ({", ".join(IMAGE_SUFFIXES)}) among {len(self.files)} files'
            raise UserError(root, problem, 'name the folder of your images and labels')
        listed = [name for name in self.files if self._is_list(name)]
        self._listed = {line: SPLIT_WORDS[Path(n).stem] for n in listed for line in self._lines(n)}

    def skip(self, kind: str, name: str) -> None:
        """Notes a file, or an object in it, that is not used."""
        self.skipped[kind].append(name)

    def notes(self) -> list[str]:
        """What is not used: each kind with its number and the first files."""
        skipped = sorted(self.skipped.items())
        return [
            *self.broken,
            *(f'{kind}: {len(names):,} ({first_few(set(names))}).' for kind, names in skipped),
        ]

    def named(self, *suffixes: str) -> list[str]:
        """The files that end so, in lower or upper case."""
        return [name for name in self.files if name.lower().endswith(suffixes)]

    def masks(self) -> dict[str, str]:
        """The mask of each image, where masks are called such and most of the other images have one."""
        masks = {name for name in self.sizes if any(map(_IS_MASK.fullmatch, words_of(name)))}
        images = [name for name in self.sizes if name not in masks]
        found = self.pair(images, masks)
        if 2 * len(found) < len(images):
            return {}
        for name in set(images) - found.keys():
            self.skip('Images without mask', name)
        for name in masks - set(found.values()):
            self.skip('Masks without image', name)
        for image, mask in list(found.items()):
            if self.sizes[image] != self.sizes[mask]:
                self.skip('Masks of another size than their image', mask)
                del found[image]
        return found

    def split(self, file: str) -> str | None:
        """The split of an image by lists such as ``ImageSets/Main/train.txt``, else by its folders."""
        return self._listed.get(Path(file).stem) or split_of(str(PurePosixPath(file).parent))

    def pair(self, images: Iterable[str], labels: Iterable[str]) -> dict[str, str]:
        """The label file of each image: of the same name, or of one that differs by words such as mask.

        Folders may differ by such words, too, or else altogether; what finds most is taken.
        """
        best: dict[str, str] = {}
        for by_folders, exact in product((True, False), (True, False)):
            by_key = [_by_key(names, by_folders, exact) for names in (images, labels)]
            found = {by_key[0][key]: by_key[1][key] for key in by_key[0].keys() & by_key[1].keys()}
            best = found if len(found) > len(best) else best
        return dict(sorted(best.items()))

    def finish(self, data: OwnData, seed: int) -> None:
        """Drops copies of images, and makes a validation split unless there is one.

        Raises:
            UserError: If too few images are left.
        """
        data.samples.sort(key=lambda s: (SPLITS.index(s.split) if s.split else len(SPLITS), s.file))
        data.samples = [sample for sample in data.samples if not self._is_odd(sample.file)]
        if not data.of('train'):
            for sample in data.of(None) or data.samples:
                sample.split = 'train'
        if not data.of('val'):
            groups = defaultdict(list)
            for sample in data.of('train'):
                groups[sample.label if data.task == 'cls' else ''].append(sample)
            generator = np.random.default_rng(seed)
            for group in groups.values():
                number = max(round(_VAL_SHARE * len(group)), min(len(group) - 1, 1))
                for i in generator.permutation(len(group))[:number]:
                    group[i].split = 'val'
        for sample in data.of(None):
            self.skip('Images in none of the splits', sample.file)
        if len(data.of('train')) < 2 or not data.of('val'):
            problem = f'{len(data.samples)} usable images are too few; ' + '; '.join(self.notes())
            raise UserError(self.root, problem.strip('; '), 'add images with labels')

    def _is_odd(self, file: str) -> bool:
        """Whether a list could not hold the name, or the image is a copy of an earlier one."""
        if file != file.strip() or '\n' in file:
            self.skip('Images with outer spaces or line breaks in their names', file)
            return True
        digest = sha256_of(self.root / file)
        if self._first.setdefault(digest, file) != file:
            self.skip('Copies of other images, which would leak into other splits', file)
        return self._first[digest] != file

    def _is_list(self, name: str) -> bool:
        return Path(name).suffix == '.txt' and Path(name).stem in SPLIT_WORDS

    def _lines(self, name: str) -> list[str]:
        names = map(PurePosixPath, lines_of(self.root / name))
        return [name.stem if name.suffix.lower() in IMAGE_SUFFIXES else name.name for name in names]


def _by_key(names: Iterable[str], by_folders: bool, exact: bool) -> dict[Any, str]:
    keys: dict[Any, list[str]] = defaultdict(list)
    for name in names:
        *folders, stem = PurePosixPath(name).with_suffix('').parts
        words = [_own_words(part) for part in (folders if by_folders else ())]
        key = split_of('/'.join(folders)), stem if exact else _own_words(stem), tuple(filter(None, words))
        keys[key].append(name)
    return {key: same[0] for key, same in keys.items() if len(same) == 1}


def _own_words(name: str) -> str:
    return ' '.join(word for word in words_of(name) if not _IS_KIND.fullmatch(word))
