"""ADE20K as ADEChallengeData2016 has it, for segmentation."""

from pathlib import Path

import numpy as np

from mmiformer.datasets.audit.images import examine, whole_image
from mmiformer.datasets.audit.layout import check_root, files_in, in_other_folders
from mmiformer.datasets.audit.report import Audit, Flaw, Splits
from mmiformer.datasets.loading import shown_size

OFFICIAL = {'training': 20_210, 'validation': 2_000}
_FOLDERS = {'train': 'training', 'val': 'validation'}
_LAST_LABEL, _IGNORED = 150, 255
_UNPACK = 'unpack ADEChallengeData2016.zip again'

_COLOURS = Flaw(
    'Masks with colours instead of labels in {}',
    f'{_UNPACK}, whose masks have one channel that holds 0 to 150',
)
_OTHER_SIZE = Flaw('Masks of another size than their image in {}', _UNPACK)
_TOO_HIGH = Flaw(f'Masks with labels above {_LAST_LABEL} in {{}}', _UNPACK)
_SHIFTED = Flaw(
    f'Masks with the label {_IGNORED} in {{}}',
    'it is left out as 0 is, but the official masks do not have it: if 1 was subtracted from all labels, '
    f'classes are learnt shifted by one, so {_UNPACK}',
    harmless=True,
)


def audit_ade20k(root: Path, splits: Splits, decode: bool) -> Audit:
    """Checks ``images/{training,validation}/**/*.jpg`` and the masks in ``annotations``.

    Args:
        root: Folder of the data set.
        splits: Out of ``train`` and ``val``.
        decode: Whether to decode every image; masks are always.
    """
    audit = Audit(root)
    entries = [f'{kind}/{split}' for kind in ('images', 'annotations') for split in OFFICIAL]
    if check_root(audit, entries, 'unpack ADEChallengeData2016.zip there, or give its folder as PATH'):
        stems = {
            f'{kind}/{_FOLDERS[split]}': {
                name.removesuffix(suffix)
                for name in files_in(audit, f'{kind}/{_FOLDERS[split]}', (suffix,), _UNPACK)
            }
            for split in splits
            for kind, suffix in (('images', '.jpg'), ('annotations', '.png'))
        }
        for split in splits:
            _check_split(audit, _FOLDERS[split], stems, decode)
    if not audit.usable and (full := next(root.rglob('*_seg.png'), None)):
        audit.tell(
            f'{full}: is of the full ADE20K, with thousands of classes in coloured masks *_seg.png; the '
            'configs want the 150 of ADEChallengeData2016.zip, fetch that.'
        )
    return audit


def _check_split(audit: Audit, split: str, stems: dict[str, set[str]], decode: bool) -> None:
    """Checks one split; ``stems`` are the file names without suffix by folder."""
    other = next(name for name in OFFICIAL if name != split)
    image_folder, mask_folder = f'images/{split}', f'annotations/{split}'
    images, masks = stems[image_folder], stems[mask_folder]
    audit.count(split, 'images', len(images), OFFICIAL[split])
    audit.count(split, 'masks', len(masks), OFFICIAL[split])
    if not images or not masks:
        return
    missing, unused, pairs = images - masks, masks - images, images & masks
    if missing and missing <= stems.get(f'annotations/{other}', set()):
        what = f'Images in {image_folder} whose masks are in annotations/{other}'
        audit.tell_of(what, missing, 'give the folders the names of their own split')
    elif in_other_folders(missing, unused):
        what = f'Images in {image_folder} whose masks lie in another folder below {mask_folder}'
        audit.tell_of(what, missing, 'lay out both alike, best without folders below')
    else:
        what = f'Images in {image_folder} without a mask in {mask_folder}'
        audit.tell_of(what, missing, f'remove them, or {_UNPACK}')
        what = f'Masks in {mask_folder} without an image in {image_folder}'
        audit.tell_of(what, unused, 'they are not used', harmless=True)
    below = {name for name in pairs if '/' in name}
    audit.tell_of(f'Images in folders below {image_folder}', below, 'they are used, too', harmless=True)
    sizes = {}

    def flaw_of_image(name: str) -> None:
        with whole_image(audit.root / image_folder / name, decode) as image:
            sizes[name.removesuffix('.jpg')] = shown_size(image)

    def flaw_of_mask(name: str) -> Flaw | None:
        with whole_image(audit.root / mask_folder / name, decode=True) as mask:
            labels = np.array(mask)
        if labels.ndim != 2:
            return _COLOURS
        if sizes.get(name.removesuffix('.png'), labels.shape[::-1]) != labels.shape[::-1]:
            return _OTHER_SIZE
        if labels.max() <= _LAST_LABEL:
            return None
        return _TOO_HIGH if ((labels > _LAST_LABEL) & (labels != _IGNORED)).any() else _SHIFTED

    examine(audit, image_folder, [f'{stem}.jpg' for stem in pairs], flaw_of_image)
    examine(audit, mask_folder, [f'{stem}.png' for stem in pairs], flaw_of_mask)
