"""The audit of a data set reports mistakes that are made on purpose."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import CustomDataset, ImageNet
from mmseg.datasets import ADE20KDataset
from PIL import ExifTags, Image

from mmiformer.apis.cli import load_config
from mmiformer.datasets.audit import ade20k, audit, coco, default_root, imagenet
from mmiformer.datasets.checks import check_files
from mmiformer.datasets.loading import IMAGE_SUFFIXES
from mmiformer.datasets.toy.ade import TOY_DATA as TOY_ADE
from mmiformer.datasets.toy.coco import TOY_DATA as TOY_COCO
from mmiformer.datasets.toy.imagenet import TOY_DATA as TOY_IMAGENET
from mmiformer.utils.errors import UserError

TOYS = {'coco': TOY_COCO, 'ade20k': TOY_ADE, 'imagenet': TOY_IMAGENET}
TRAIN, VAL = 'annotations/instances_train2017.json', 'annotations/instances_val2017.json'


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> dict[str, Path]:
    """Data sets of 12 training and 6 validation images without problems."""
    folder = tmp_path_factory.mktemp('made')
    roots = {name: toy.make(folder / name, num_train=12, num_val=6) for name, toy in TOYS.items()}
    for split in ('train', 'val'):
        file = roots['coco'] / f'annotations/instances_{split}2017.json'
        content = json.loads(file.read_text())
        ids = {category['name']: category['id'] for category in content['categories']}
        content['categories'] = [
            dict(id=ids.get(name, 1000 + i), name=name)
            for i, name in enumerate(CocoDataset.METAINFO['classes'])
        ]
        for image in content['images'] if split == 'val' else ():  # No names of COCO occur in both splits.
            former = image['file_name']
            image['file_name'] = f'9{former[1:]}'
            (roots['coco'] / 'val2017' / former).rename(roots['coco'] / 'val2017' / image['file_name'])
        file.write_text(json.dumps(content))
    return roots


@pytest.fixture
def copy(made, tmp_path):
    """Copies one of the data sets, so that a test can damage it."""
    return lambda name: Path(shutil.copytree(made[name], tmp_path / 'data' / name))


@pytest.fixture(autouse=True)
def six_classes(monkeypatch):
    monkeypatch.setattr(imagenet, 'CLASSES', 6)


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def cut(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])


def nest(folder: Path, below: str) -> None:
    """Moves what is in a folder into a new one below it."""
    aside = folder.with_name('aside')
    folder.rename(aside)
    (folder / below).parent.mkdir(parents=True)
    aside.rename(folder / below)


def flatten(folder: Path) -> None:
    for file in list(folder.glob('*/*')):
        file.rename(folder / file.name)
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            entry.rmdir()


def mask(file: Path, labels: np.ndarray) -> None:
    cv2.imwrite(str(file), labels)


def relabel(file: Path, label: int) -> None:
    labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    labels[0, 0] = label
    mask(file, labels)


IMAGE_1, IMAGE_2 = (f'train2017/{i:012d}.jpg' for i in (1, 2))
ADE_1 = 'annotations/training/ADE_train_00000001.png'
CLS_1 = 'train/n02708093/n02708093_1.JPEG'
# Data set, damage, and what the report says.
MISTAKES = {
    'coco, another folder': (
        lambda r: nest(r, 'x/coco'),
        r'/train2017: not found, but \S*/coco/x/coco/train2017 exists; move it, or pass',
    ),
    'coco, empty folder': (
        lambda r: (shutil.rmtree(r), r.mkdir()),
        'train2017: not found; unpack train2017.zip',
    ),
    'coco, images elsewhere': (
        lambda r: nest(r / 'val2017', 'val2017'),
        r'names and val2017 lacks: 6 \(900000000001.jpg, .*; unpack val2017.zip',
    ),
    'coco, no annotations': (lambda r: (r / VAL).unlink(), 'instances_val2017.json: not found; unpack anno'),
    'coco, no images': (
        lambda r: (shutil.rmtree(r / 'val2017'), (r / 'val2017').mkdir()),
        '/val2017: is empty; unpack val2017.zip',
    ),
    'coco, captions': (
        lambda r: edit(r / VAL, lambda c: [a.pop('category_id') for a in c['annotations']]),
        'val2017.json: has the annotation {.*}; expected an id, .* a category_id',
    ),
    'coco, no instances': (
        lambda r: edit(r / TRAIN, lambda c: c.update(annotations=[])),
        'train2017.json: has 12 images and 0 instances; unpack',
    ),
    'coco, other categories': (
        lambda r: edit(r / VAL, lambda c: c.update(categories=[dict(id=1, name='person')])),
        'has 1 categories, expected the 80 of COCO; unpack .*detection.md',
    ),
    'coco, instances of no category': (
        lambda r: edit(r / VAL, lambda c: c['annotations'][0].update(category_id=5000)),
        r'a category that annotations/instances_val2017.json does not declare: 1 \(900000000001.jpg\)',
    ),
    'coco, missing image': (
        lambda r: (r / IMAGE_1).unlink(),
        r'train2017.json names and train2017 lacks: 1 \(000000000001.jpg\); unpack train2017.zip',
    ),
    'coco, empty image': (lambda r: cut(r / IMAGE_1, 0), 'Empty or unreadable images in train2017: 1 '),
    'coco, no image': (lambda r: (r / IMAGE_1).write_text('<html>'), 'or unreadable images in train2017: 1 '),
    'coco, PostScript': (
        lambda r: Image.new('RGB', (8, 8)).save(r / IMAGE_1, 'EPS'),
        'or unreadable images in train2017: 1 ',
    ),
    'coco, truncated images': (
        lambda r: [cut(r / name, -2) for name in (IMAGE_1, IMAGE_2)],
        r'Truncated files in train2017: 2 \(000000000001.jpg, 000000000002.jpg\); fetch',
    ),
    'coco, another size': (
        lambda r: cv2.imwrite(str(r / IMAGE_1), np.zeros((20, 30, 3), np.uint8)),
        r'Images of another size than annotated in train2017: 1 \(000000000001.jpg\); unpack',
    ),
    'ade20k, no masks': (
        lambda r: shutil.rmtree(r / 'annotations/validation'),
        'annotations/validation: not found; unpack ADEChallengeData2016.zip',
    ),
    'ade20k, a missing mask': (lambda r: (r / ADE_1).unlink(), r'without a mask in \S*training: 1 \(ADE_tr'),
    'ade20k, images in upper case': (
        lambda r: [f.rename(f.with_suffix('.JPG')) for f in list((r / 'images/training').iterdir())],
        'images/training: has no files that end in .jpg; unpack',
    ),
    'ade20k, thumbnails': (
        lambda r: shutil.copytree(r / 'images/validation', r / 'images/training/.thumbs'),
        r'without a mask in annotations/training: 6 \(.thumbs/ADE_val_00000001, .*; remove them, or unpack',
    ),
    'ade20k, colours': (
        lambda r: mask(r / ADE_1, np.full((8, 8, 3), 7, np.uint8)),
        r'colours instead of labels in annotations/training: 1 \(ADE_train_00000001.png\); unpack',
    ),
    'ade20k, label 151': (lambda r: relabel(r / ADE_1, 151), r'labels above 150 in \S*training: 1 \(ADE'),
    'ade20k, shifted labels': (
        lambda r: relabel(r / ADE_1, 255),
        r'labels above 150 in \S*training: 1 \(ADE',
    ),
    'ade20k, another size': (
        lambda r: mask(r / ADE_1, np.zeros((8, 8), np.uint8)),
        'Masks of another size than their image in annotations/training: 1 ',
    ),
    'ade20k, truncated mask': (lambda r: cut(r / ADE_1, -500), 'Truncated files in annotations/training: 1'),
    'ade20k, truncated image': (
        lambda r: cut(r / 'images/validation/ADE_val_00000002.jpg', -2),
        r'Truncated files in images/validation: 1 \(ADE_val_00000002.jpg\)',
    ),
    'imagenet, Kaggle': (
        lambda r: nest(r, 'ILSVRC/Data/CLS-LOC'),
        r'/train: not found, but \S*/imagenet/ILSVRC/Data/CLS-LOC/train exists',
    ),
    'imagenet, flat': (lambda r: flatten(r / 'val'), 'val: has 0 class folders, expected 6; .*valprep.sh'),
    'imagenet, no val': (lambda r: shutil.rmtree(r / 'val'), '/val: not found; unpack ImageNet-1k'),
    'imagenet, a missing class': (
        lambda r: shutil.rmtree(r / 'val/n02708093'),
        r'(?s)val: has 5 class folders, expected 6;.*of one split only: 1 \(n02708093\)',
    ),
    'imagenet, another name': (
        lambda r: [(r / split / 'n02708093').rename(r / split / 'clock') for split in ('train', 'val')],
        r'Class folders in train with names unlike n01440764: 1 \(clock\); rename them',
    ),
    'imagenet, hidden folder': (
        lambda r: (r / 'train/.ipynb_checkpoints').mkdir(),
        r'in train with names unlike n01440764: 1 \(.ipynb_checkpoints\)',
    ),
    'imagenet, a class without images': (
        lambda r: [file.unlink() for file in (r / 'val/n02708093').iterdir()],
        r'Class folders in val without an image: 1 \(n02708093\)',
    ),
    'imagenet, truncated': (lambda r: cut(r / CLS_1, -2), r'Truncated files in train: 1 \(n02708093/n'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_reported(copy, mistake):
    damage, words = MISTAKES[mistake]
    name = mistake.partition(',')[0]
    root = copy(name)
    damage(root)
    found = audit(name, root)
    assert re.search(words, '\n'.join(found.errors)), found.errors
    assert found.verdict == 'not usable'


@pytest.mark.parametrize('name', TOYS)
def test_the_official_set_is_complete(made, monkeypatch, name):
    found = audit(name, made[name])
    assert found.verdict == 'usable, but not the official set' and not found.errors + found.notes
    official: dict[str, Any] = dict(train=12, val=6)
    if name == 'coco':
        instances = {count.split: count.found for count in found.counts if count.item == 'instances'}
        official = {split: (number, instances[split]) for split, number in official.items()}
    monkeypatch.setattr({'coco': coco, 'ade20k': ade20k, 'imagenet': imagenet}[name], 'OFFICIAL', official)
    assert audit(name, made[name]).verdict == 'complete'


UNUSED = {
    'coco, other files': (
        lambda r: (r / 'val2017' / 'notes.txt').touch(),
        r'Files in val2017 that .*val2017.json does not name: 1 \(notes.txt\); they are not used',
    ),
    'coco, masks between 0 and 1': (
        lambda r: edit(r / VAL, lambda c: c['annotations'][0].update(segmentation=[[0, 0, 0, 0.9, 0.1, 0]])),
        r'val2017.json: masks that cover no pixel of their image: 1 \(.*jpg\); training skips them',
    ),
    'ade20k, masks without image': (
        lambda r: (r / 'images/training/ADE_train_00000001.jpg').unlink(),
        r'Masks in annotations/training without an image in images/training: 1 \(ADE_train_00000001\)',
    ),
}


@pytest.mark.parametrize('what', UNUSED)
def test_unused_files_are_a_note(copy, what):
    change, words = UNUSED[what]
    name = what.partition(',')[0]
    root = copy(name)
    change(root)
    found = audit(name, root)
    (note,) = found.notes
    assert re.search(words, note), note
    assert found.verdict == 'usable, but not the official set'


def test_images_are_those_that_training_lists(copy):
    root = copy('ade20k')
    for kind in ('images', 'annotations'):
        shutil.copytree(root / kind / 'validation', root / kind / 'training/.more/deeper')
    (root / 'images/training/._x.jpg').touch()
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    listed = len(ADE20KDataset(data_root=str(root), data_prefix=prefix, pipeline=[]))
    assert audit('ade20k', root).counts[:2] == [
        ('train', 'images', listed, 20_210),
        ('train', 'masks', listed, 20_210),
    ]
    root = copy('imagenet')
    shutil.copytree(root / 'val/n02708093', root / 'train/n02708093/.more/deeper')
    (root / 'train/n02708093/._x.JPEG').touch()
    found = audit('imagenet', root)
    listed = len(CustomDataset(data_root=str(root), data_prefix='train', pipeline=[]))
    assert found.counts[1] == ('train', 'images', listed, 1_281_167)
    assert not found.errors


def test_coco_names_may_be_in_upper_case_and_have_folders(copy):
    root = copy('coco')
    names = ('a/x.JPG', 'b.JPG', '../c.jpg')
    (root / 'train2017/a').mkdir()
    for i, name in enumerate(names):
        (root / f'train2017/{i + 1:012d}.jpg').rename(root / 'train2017' / name)
    edit(root / TRAIN, lambda c: [c['images'][i].update(file_name=name) for i, name in enumerate(names)])
    assert not audit('coco', root).errors
    cut(root / 'c.jpg', -2)
    assert audit('coco', root).errors == [
        'Truncated files in train2017: 1 (../c.jpg); fetch or copy them again.'
    ]


@pytest.mark.parametrize(
    ('name', 'train'),
    [
        ('coco', ('train2017', TRAIN)),
        ('ade20k', ('images/training', 'annotations/training')),
        ('imagenet', ('train',)),
    ],
)
def test_val_alone_is_enough_for_tests(copy, name, train):
    root = copy(name)
    for entry in train:
        (root / entry).rename(root / f'{entry}.aside')
    assert audit(name, root).verdict == audit(name, root, ('train',)).verdict == 'not usable'
    found = audit(name, root, ('val',))
    assert found.verdict == 'usable, but not the official set' and not found.errors
    assert {count.split for count in found.counts} == {'val'}


def test_bytes_after_an_image_are_fine_and_decoding_finds_a_damaged_middle(copy):
    root = copy('imagenet')
    file = root / CLS_1
    file.write_bytes(file.read_bytes() + b'\0' * 10_000)
    assert audit('imagenet', root, decode=True).usable
    data = bytearray(file.read_bytes())
    table = data.rindex(b'\xff\xc4')  # Of the Huffman codes: mark, two bytes of length, one of class.
    data[table + 5 : table + 21] = b'\xff' * 16
    file.write_bytes(data)
    assert audit('imagenet', root).usable
    assert 'unreadable images in train: 1' in audit('imagenet', root, decode=True).errors[-1]
    # ImageNet has a PNG under a JPEG's name.
    data = cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    file.write_bytes(data)
    assert audit('imagenet', root, decode=True).usable
    file.write_bytes(data[:-2])
    assert 'Truncated files in train: 1' in audit('imagenet', root).errors[-1]


def test_exif_data_turn_the_size_of_an_image(copy):
    root = copy('coco')
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # Turned by 90 degrees.
    Image.new('RGB', (30, 20)).save(root / IMAGE_1, exif=exif)
    assert cv2.imread(str(root / IMAGE_1)).shape == (30, 20, 3)
    edit(root / TRAIN, lambda content: [a.update(segmentation=[[0] * 6]) for a in content['annotations']])
    edit(root / TRAIN, lambda content: content['images'][0].update(width=20, height=30))
    assert audit('coco', root).usable
    edit(root / TRAIN, lambda content: content['images'][0].update(width=30, height=20))
    assert not audit('coco', root).usable


@pytest.mark.parametrize(
    ('name', 'config'),
    [
        ('coco', 'detection/maskrcnn_iformer_m_coco.py'),
        ('ade20k', 'segmentation/fpn_iformer_m_ade20k.py'),
        ('imagenet', 'classification/iformer_m_in1k.py'),
    ],
)
def test_the_default_folder_is_that_of_the_configs(root, monkeypatch, name, config):
    for value in (None, '', 'elsewhere'):
        monkeypatch.delenv('MMIFORMER_DATA', raising=False)
        if value is not None:
            monkeypatch.setenv('MMIFORMER_DATA', value)
        folder = default_root(name)  # Before the config, whose loader drops an empty variable.
        cfg = load_config(str(root / 'configs' / config))
        assert Path(cfg.data_root) == folder
    with pytest.raises(UserError, match=f'^{cfg.data_root}.*: not found .*check_data.py.*MMIFORMER_DATA'):
        check_files(cfg, 'train')


def test_constants_are_those_of_the_stack():
    assert len(CocoDataset.METAINFO['classes']) == coco.CLASSES
    assert set(ImageNet.IMG_EXTENSIONS) <= set(IMAGE_SUFFIXES)


def test_real_images(real_data):
    found = audit('coco', real_data / 'coco', decode=True)
    assert found.usable, found.errors
    numbers = {(count.split, count.item): count.found for count in found.counts}
    for split in ('train', 'val'):
        content = json.loads((real_data / f'coco/annotations/instances_{split}2017.json').read_text())
        assert numbers[split, 'images on disk'] == len(list((real_data / f'coco/{split}2017').glob('*.jpg')))
        assert numbers[split, 'images annotated'] == len(content['images'])
        assert numbers[split, 'instances'] == len(content['annotations'])
    ade = audit('ade20k', real_data / 'ade/ADEChallengeData2016')
    assert not ade.errors + ade.notes
