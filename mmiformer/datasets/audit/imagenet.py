"""ImageNet-1k in class folders, for classification."""

import re
from pathlib import Path

from mmiformer.datasets.audit.files import check_images, list_files
from mmiformer.datasets.audit.report import Audit
from mmiformer.datasets.loading import IMAGE_SUFFIXES

OFFICIAL = {'train': 1_281_167, 'val': 50_000}
CLASSES = 1000


def audit_imagenet(audit: Audit, split: str) -> None:
    """Checks ``{train,val}/n01440764/...``."""
    files = list_files(audit, split, f'unpack ImageNet-1k, with a folder for each of {CLASSES} classes')
    if not files:
        return
    classes = _class_folders(audit.root / split)
    images = {name for name in files if '/' in name and name.lower().endswith(IMAGE_SUFFIXES)}
    audit.count(split, 'class folders', len(classes), CLASSES)
    audit.count(split, 'images', len(images), OFFICIAL[split])
    if len(classes) != CLASSES:
        remedy = 'unpack the others, or for your own classes see docs/own_classification_data.md'
        if not images:
            remedy = 'move the images into class folders; for val, the script valprep.sh does so'
        audit.add_error(audit.root / split, f'has {len(classes)} class folders, expected {CLASSES}', remedy)
    audit.add_files(
        f'Class folders in {split} with names unlike n01440764',
        {name for name in classes if not re.fullmatch(r'n\d{8}', name)},
        "rename them to WordNet's IDs, whose order is that of the labels, and remove others",
    )
    empty = classes - {name.partition('/')[0] for name in images}
    audit.add_files(f'Class folders in {split} without an image', empty, 'unpack them again')
    check_images(audit, split, images, lambda name, image: None)
    if split == 'val' and 'train' in audit.splits:
        odd = classes ^ (_class_folders(audit.root / 'train') or classes)
        audit.add_files('Class folders of one split only', odd, 'add them to the other, or remove them')


def _class_folders(folder: Path) -> set[str]:
    return {entry.name for entry in folder.glob('*') if entry.is_dir()}
