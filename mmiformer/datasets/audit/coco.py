"""COCO 2017, for detection."""

from PIL import Image
from rich.console import Console

from mmiformer.datasets.annotations import NO_CATEGORY, check_coco, read_coco
from mmiformer.datasets.audit.files import Defect, check_images, list_files, require
from mmiformer.datasets.audit.report import Audit
from mmiformer.datasets.loading import shown_size
from mmiformer.utils.errors import UserError, first_few

OFFICIAL = {'train': (118_287, 860_001), 'val': (5_000, 36_781)}  # Numbers of images and of instances.
CLASSES = 80
_UNPACK = 'unpack annotations_trainval2017.zip of COCO 2017'


def audit_coco(audit: Audit, split: str) -> None:
    """Checks ``annotations/instances_{train,val}2017.json`` and the images that they name."""
    folder, entry = f'{split}2017', f'annotations/instances_{split}2017.json'
    unpack = f'unpack {folder}.zip of COCO 2017'
    files = list_files(audit, folder, unpack)
    sizes, instances = _read_annotations(audit, entry)
    audit.count(split, 'images on disk', len(files), OFFICIAL[split][0])
    audit.count(split, 'images annotated', len(sizes), OFFICIAL[split][0])
    audit.count(split, 'instances', instances, OFFICIAL[split][1])
    if not files or not sizes:
        return
    # Annotations may also name files outside of the folder, such as ../images/1.jpg.
    missing = {name for name in sizes.keys() - files if not (audit.root / folder / name).is_file()}
    audit.add_files(f'Images that {entry} names and {folder} lacks', missing, unpack)
    audit.add_unused(f'Files in {folder} that {entry} does not name', files - sizes.keys())

    def inspect(name: str, image: Image.Image) -> Defect | None:
        fits = shown_size(image) == sizes[name]
        return None if fits else ('Images of another size than annotated', unpack)

    check_images(audit, folder, sizes.keys() - missing, inspect)


def _read_annotations(audit: Audit, entry: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Returns width and height of each image, and the number of instances."""
    if not require(audit, entry, _UNPACK):
        return {}, 0
    path = audit.root / entry
    try:
        with Console(stderr=True).status(f'Reading {path.name}'):
            content = read_coco(path)
            skipped = check_coco(str(path), content, masks=True, evaluated=True)
    except UserError as error:
        audit.errors.append(str(error))
        return {}, 0
    sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
    instances, categories = len(content['annotations']), len(content['categories'])
    if not sizes or not instances:
        audit.add_error(path, f'has {len(sizes)} images and {instances} instances', _UNPACK)
    if categories != CLASSES:
        remedy = f'{_UNPACK}, or for your own classes see docs/detection.md'
        audit.add_error(path, f'has {categories} categories, expected the {CLASSES} of COCO', remedy)
    kind = f'Images with instances of a category that {entry} does not declare'
    audit.add_files(kind, set(skipped.pop(NO_CATEGORY, ())), _UNPACK)
    for what, images in skipped.items():
        names = first_few(set(images))
        audit.notes.append(f'{entry}: {what}: {len(images):,} ({names}); training skips them.')
    return sizes, instances
