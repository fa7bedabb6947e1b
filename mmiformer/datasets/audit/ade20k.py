"""ADE20K as in ADEChallengeData2016, for segmentation."""

import numpy as np
from PIL import Image

from mmiformer.datasets.audit.files import Defect, check_images, list_files
from mmiformer.datasets.audit.report import Audit
from mmiformer.datasets.loading import shown_size

OFFICIAL = {'train': 20_210, 'val': 2_000}
_LAST_LABEL = 150
_UNPACK = 'unpack ADEChallengeData2016.zip'


def audit_ade20k(audit: Audit, split: str) -> None:
    """Checks ``images/{training,validation}/**/*.jpg`` and the masks in ``annotations``."""
    folder = 'training' if split == 'train' else 'validation'
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

    def inspect_image(name: str, image: Image.Image) -> None:
        sizes[name.removesuffix('.jpg')] = shown_size(image)

    def inspect_mask(name: str, mask: Image.Image) -> Defect | None:
        labels = np.array(mask)
        if labels.ndim != 2:
            return 'Masks with colours instead of labels', _UNPACK
        if sizes.get(name.removesuffix('.png'), mask.size) != mask.size:
            return 'Masks of another size than their image', _UNPACK
        if labels.max() > _LAST_LABEL:  # 255 too: if 1 was subtracted from all labels, classes are shifted.
            return f'Masks with labels above {_LAST_LABEL}', _UNPACK
        return None

    check_images(audit, image_folder, {f'{name}.jpg' for name in images & masks}, inspect_image)
    check_images(audit, mask_folder, {f'{name}.png' for name in images & masks}, inspect_mask)
