"""ADE20K as ADEChallengeData2016 has it, for segmentation."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmiformer.datasets.audit.images import DamagedError, damage, examine, read_size
from mmiformer.datasets.audit.layout import check_root, files_in, in_other_folders
from mmiformer.datasets.audit.report import Audit, Flaw, Splits
from mmiformer.datasets.loading import BROKEN, open_image
from mmiformer.files import check_regular

OFFICIAL = {'training': 20_210, 'validation': 2_000}
_FOLDERS = {'train': 'training', 'val': 'validation'}
_LAST_LABEL, _IGNORED = 150, 255
_UNPACK = 'unpack ADEChallengeData2016.zip again'

_COLOURS = Flaw(
    'Masks with colours instead of labels', f'{_UNPACK}, whose masks have one channel that holds 0 to 150'
)
_OTHER_SIZE = Flaw('Masks of another size than their image', _UNPACK)
_TOO_HIGH = Flaw(f'Masks with labels above {_LAST_LABEL}', _UNPACK)
_SHIFTED = Flaw(
    f'Masks with the label {_IGNORED}',
    'it is left out as 0 is, but the official masks do not have it: if 1 was subtracted from all labels, '
    f'classes are learnt shifted by one, so {_UNPACK}',
    harmless=True,
)


def audit_ade20k(root: Path, splits: Splits, decode: bool) -> Audit:
    """Looks at ``images/{training,validation}/**/*.jpg`` and the masks in ``annotations``.

    Args:
        root: Folder of the data set.
        splits: Out of ``train`` and ``val``.
        decode: Whether to decode every image; masks are always.
    """
    audit = Audit(root)
    entries = [f'{kind}/{split}' for kind in ('images', 'annotations') for split in OFFICIAL]
    if check_root(audit, entries, 'unpack ADEChallengeData2016.zip there, or give its folder as PATH'):
        _check_splits(audit, [_FOLDERS[split] for split in splits], decode)
    if not audit.usable and (full := next(root.rglob('*_seg.png'), None)):
        audit.tell(
            f'{full}: is of the full ADE20K, with thousands of classes in coloured masks *_seg.png; the '
            'configs want the 150 of ADEChallengeData2016.zip, fetch that.'
        )
    return audit


def _check_splits(audit: Audit, splits: list[str], decode: bool) -> None:
    stems: dict[str, set[str] | None] = {}
    for split in splits:
        for kind, suffix in (('images', '.jpg'), ('annotations', '.png')):
            names = files_in(audit, f'{kind}/{split}', (suffix,), _UNPACK)
            stems[f'{kind}/{split}'] = names and {name.removesuffix(suffix) for name in names}
    for split in splits:
        other = next(name for name in OFFICIAL if name != split)
        images, masks = stems[f'images/{split}'], stems[f'annotations/{split}']
        audit.count(split, 'images', len(images or ()), OFFICIAL[split])
        audit.count(split, 'masks', len(masks or ()), OFFICIAL[split])
        if images is None or masks is None:
            continue
        missing = images - masks
        if missing and missing <= (stems.get(f'annotations/{other}') or set()):
            what = f'Images in images/{split} whose masks are in annotations/{other}'
            audit.tell_of(what, missing, 'give the folders the names of their own split')
        elif in_other_folders(missing, masks - images):
            what = f'Images in images/{split} whose masks lie in another folder below annotations/{split}'
            audit.tell_of(what, missing, 'lay out both alike, best without folders below')
        else:
            what = f'Images in images/{split} without a mask in annotations/{split}'
            audit.tell_of(what, missing, f'remove them, or {_UNPACK}')
            what = f'Masks in annotations/{split} without an image in images/{split}'
            audit.tell_of(what, masks - images, 'they are not used', harmless=True)
        pairs = images & masks
        below = {name for name in pairs if '/' in name}
        audit.tell_of(f'Images in folders below images/{split}', below, 'they are used, too', harmless=True)
        _check_pairs(audit, split, pairs, decode)


def _check_pairs(audit: Audit, split: str, stems: set[str], decode: bool) -> None:
    images, masks = f'images/{split}', f'annotations/{split}'

    def inspect(stem: str) -> Iterator[tuple[Flaw, str, str]]:
        image, mask, size = f'{stem}.jpg', f'{stem}.png', None
        try:
            size = read_size(audit.root / images / image, decode)
        except DamagedError as error:
            yield error.flaw, images, image
        try:
            flaw = _flaw_of_mask(audit.root / masks / mask, size)
        except DamagedError as error:
            flaw = error.flaw
        if flaw:
            yield flaw, masks, mask

    examine(audit, f'Looking at {split}', inspect, stems)


def _flaw_of_mask(path: Path, size: tuple[int, int] | None) -> Flaw | None:
    """What is wrong with a mask, whose image has a size, unknown if None."""
    try:
        check_regular(path)
        with open_image(path) as image:
            labels = np.array(image)
    except BROKEN as error:
        raise damage(path, error) from error
    if labels.ndim != 2:
        return _COLOURS
    if size and labels.shape != size[::-1]:
        return _OTHER_SIZE
    if labels.max() <= _LAST_LABEL:
        return None
    return _TOO_HIGH if ((labels > _LAST_LABEL) & (labels != _IGNORED)).any() else _SHIFTED
