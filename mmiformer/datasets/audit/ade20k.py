"""ADE20K as in ADEChallengeData2016, for segmentation."""

import numpy as np

from mmiformer.datasets.audit.files import FileDefect, check_images, intact_image, list_files
from mmiformer.datasets.audit.report import Audit
from mmiformer.datasets.loading import shown_size

OFFICIAL = {'train': 20_210, 'val': 2_000}
_LAST_LABEL = 150
_UNPACK = 'unpack ADEChallengeData2016.zip'


def audit_ade20k(audit: Audit, splits: tuple[str, ...], decode: bool) -> None:
    """Checks ``images/{training,validation}/**/*.jpg`` and the masks in ``annotations``."""
    for split in splits:
        _check_split(audit, split, 'training' if split == 'train' else 'validation', decode)


def _check_split(audit: Audit, split: str, folder: str, decode: bool) -> None:
    image_folder, mask_folder = f'images/{folder}', f'annotations/{folder}'
    images = {name.removesuffix('.jpg') for name in list_files(audit, image_folder, _UNPACK, '.jpg')}
    masks = {name.removesuffix('.png') for name in list_files(audit, mask_folder, _UNPACK, '.png')}
    audit.count(split, 'images', len(images), OFFICIAL[split])
    audit.count(split, 'masks', len(masks), OFFICIAL[split])
    if not images or not masks:
        return
    kind = f'Images in {image_folder} without a mask in {mask_folder}'
    audit.add_files(kind, images - masks, f'remove them, or {_UNPACK}')
    audit.add_unused(f'Masks in {mask_folder} without an image in {image_folder}', masks - images)
    sizes = {}

    def check_image(name: str) -> None:
        with intact_image(audit.root / image_folder / f'{name}.jpg', decode) as image:
            sizes[name] = shown_size(image)

    def check_mask(name: str) -> None:
        with intact_image(audit.root / mask_folder / f'{name}.png', decode=True) as mask:
            labels = np.array(mask)
        if labels.ndim != 2:
            raise FileDefect('Masks with colours instead of labels', _UNPACK)
        if name in sizes and sizes[name] != labels.shape[::-1]:
            raise FileDefect('Masks of another size than their image', _UNPACK)
        if labels.max() > _LAST_LABEL:  # 255 too: if 1 was subtracted from all labels, classes are shifted.
            raise FileDefect(f'Masks with labels above {_LAST_LABEL}', _UNPACK)

    check_images(audit, image_folder, images & masks, check_image)
    check_images(audit, mask_folder, images & masks, check_mask)
