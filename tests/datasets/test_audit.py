"""Every mistake that the audit of a data set is to name, made on purpose."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import CustomDataset, ImageNet
from mmseg.datasets import ADE20KDataset
from PIL import Image

from mmiformer.apis.cli import load_config
from mmiformer.datasets.audit import ade20k, audit, coco, default_root, imagenet
from mmiformer.datasets.checks import check_files
from mmiformer.datasets.loading import IMAGE_SUFFIXES
from mmiformer.datasets.toy.ade import make_ade
from mmiformer.datasets.toy.coco import make_coco
from mmiformer.datasets.toy.imagenet import make_imagenet
from mmiformer.utils.errors import UserError

MAKERS = {'coco': make_coco, 'ade20k': make_ade, 'imagenet': make_imagenet}
TRAIN, VAL = 'annotations/instances_train2017.json', 'annotations/instances_val2017.json'


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> dict[str, Path]:
    """Data sets of 12 training and 6 validation images that the audit finds nothing wrong with."""
    folder = tmp_path_factory.mktemp('made')
    roots = {name: make(folder / name, num_train=12, num_val=6) for name, make in MAKERS.items()}
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
    """Makes a copy of one of the data sets, to be spoilt."""
    return lambda name: Path(shutil.copytree(made[name], tmp_path / 'data' / name))


@pytest.fixture(autouse=True)
def _six_classes(monkeypatch):
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


def cut_off(file: Path) -> None:
    """Puts a link that leads nowhere in a file's place."""
    file.unlink(missing_ok=True)
    file.symlink_to('nowhere')


def swap(first: Path, second: Path) -> None:
    aside = first.with_name('aside')
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


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
MISTAKES = {
    # COCO: where things are
    'extra level': (
        'coco',
        lambda r: nest(r, 'coco'),
        r'holds none of .*, but \S*/coco/coco does; give that',
    ),
    'extra level of images': (
        'coco',
        lambda r: nest(r / 'train2017', 'train2017'),
        r'names and that lie in another folder below train2017: 12 \(000000000001.jpg, .*; move them',
    ),
    'images elsewhere': (
        'coco',
        lambda r: ((r / 'images').mkdir(), (r / 'val2017').rename(r / 'images' / 'val2017')),
        r'/val2017: not found; \S*images/val2017 is there, move it',
    ),
    'extra level of annotations': (
        'coco',
        lambda r: nest(r / 'annotations', 'annotations'),
        r'_train2017.json: not found; \S*annotations/annotations/instances_train2017.json is there',
    ),
    'no val annotations': (
        'coco',
        lambda r: (r / VAL).unlink(),
        'instances_val2017.json: not found; unpack annotations_trainval2017.zip',
    ),
    'annotations of 2014': (
        'coco',
        lambda r: (r / VAL).rename(r / VAL.replace('2017', '2014')),
        'instances_val2017.json: not found, only instances_val2014.json of COCO 2014; unpack',
    ),
    'annotations of 2014, renamed': (
        'coco',
        lambda r: edit(r / VAL, lambda c: c['images'][0].update(file_name='COCO_val2014_000000000001.jpg')),
        r'COCO 2014 that annotations/instances_val2017.json names: 1 \(COCO_val2014_000000000001.jpg\)',
    ),
    'swapped images': (
        'coco',
        lambda r: swap(r / 'train2017', r / 'val2017'),
        'names and that lie in val2017 instead of train2017: 12 .*; give the folders',
    ),
    'no val images': (
        'coco',
        lambda r: shutil.rmtree(r / 'val2017'),
        '/val2017: not found; unpack val2017.zip',
    ),
    'empty folder': (
        'coco',
        lambda r: (shutil.rmtree(r / 'val2017'), (r / 'val2017').mkdir()),
        '/val2017: is empty; unpack val2017.zip',
    ),
    'nothing but an empty folder': (
        'coco',
        lambda r: (shutil.rmtree(r), r.mkdir()),
        'coco: is an empty folder; unpack COCO 2017',
    ),
    # COCO: what is in the files
    'no JSON': (
        'coco',
        lambda r: cut(r / VAL, 100),
        r'val2017.json: no JSON \(.*line 1.*\).*, or unpack anno',
    ),
    'empty JSON': ('coco', lambda r: cut(r / VAL, 0), r'val2017.json: no JSON \(.*\).*, or unpack anno'),
    'captions': (
        'coco',
        lambda r: edit(r / VAL, lambda c: [a.pop('category_id') for a in c['annotations']]),
        r'val2017.json: annotation \d+ of image \d+ lacks category_id; correct it, or unpack anno',
    ),
    **{
        f'instances without {field}': (
            'coco',
            lambda r, field=field: edit(r / VAL, lambda c: c['annotations'][0].pop(field)),
            rf'val2017.json: annotation \d+ of image \d+ lacks {field}; correct it',
        )
        for field in ('bbox', 'area', 'iscrowd')
    },
    'instances without segmentation': (
        'coco',
        lambda r: edit(r / VAL, lambda c: c['annotations'][0].pop('segmentation')),
        r'val2017.json: annotation \d+ of 900000000001.jpg has the segmentation None, expected polygons',
    ),
    'image without a name': (
        'coco',
        lambda r: edit(r / VAL, lambda c: c['images'][0].update(file_name=None)),
        r"val2017.json: has the image {.*'file_name': None.*}; expected an id, a file_name",
    ),
    'image with a list for an id': (
        'coco',
        lambda r: edit(r / VAL, lambda c: c['images'][0].update(id=[1])),
        r"val2017.json: has the image {'id': \[1\].*}; expected an id, a file_name",
    ),
    'links to nowhere': (
        'coco',
        lambda r: [cut_off(file) for file in list((r / 'val2017').iterdir())],
        r'^Links in val2017 that lead nowhere: 6 \(900000000001.jpg, .*; bring back what they point to.$',
    ),
    'a link to nowhere': (
        'coco',
        lambda r: cut_off(r / IMAGE_1),
        r'Links in train2017 that lead nowhere: 1 \(000000000001.jpg\)',
    ),
    'a folder that is a link to nowhere': (
        'coco',
        lambda r: (shutil.rmtree(r / 'val2017'), (r / 'val2017').symlink_to('nowhere')),
        '/val2017: is a link that leads nowhere; unpack val2017.zip',
    ),
    'other JSON': ('coco', lambda r: (r / VAL).write_text('[1]'), 'val2017.json: JSON, but no object with'),
    'no instances': (
        'coco',
        lambda r: edit(r / TRAIN, lambda c: c.update(annotations=[])),
        'train2017.json: holds 12 images and 0 instances; unpack',
    ),
    'other categories': (
        'coco',
        lambda r: edit(r / VAL, lambda c: c.update(categories=[dict(id=1, name='person')])),
        r"categories are 1 \(person, ...\), and 79 of COCO's 80 are not among them \(airplane, apple,",
    ),
    'another order': (
        'coco',
        lambda r: edit(r / VAL, lambda c: c['categories'].reverse()),
        "categories are COCO's, but in another order",
    ),
    'instances of no image': (
        'coco',
        lambda r: edit(r / VAL, lambda c: c['annotations'][0].update(image_id=77, id=5000)),
        'val2017.json: annotation 5000 is of image 77, which the file does not list; correct it, or unpack',
    ),
    'instances of no category': (
        'coco',
        lambda r: edit(r / VAL, lambda c: c['annotations'][0].update(category_id=5000)),
        r'a category that annotations/instances_val2017.json does not declare: 1 \(900000000001.jpg\)',
    ),
    'missing image': (
        'coco',
        lambda r: (r / IMAGE_1).unlink(),
        r'train2017.json names and train2017 lacks: 1 \(000000000001.jpg\); unpack train2017.zip',
    ),
    'no bytes': ('coco', lambda r: cut(r / IMAGE_1, 0), r'Empty files in train2017: 1 \(0+1.jpg\)'),
    'truncated image': (
        'coco',
        lambda r: [cut(r / name, -2) for name in (IMAGE_1, IMAGE_2)],
        r'Truncated files in train2017: 2 \(000000000001.jpg, 000000000002.jpg\); fetch',
    ),
    'a pipe': (
        'coco',
        lambda r: ((r / IMAGE_1).unlink(), os.mkfifo(r / IMAGE_1)),
        r'Empty files in train2017: 1 \(0+1.jpg\)',
    ),
    'PostScript': (
        'coco',
        lambda r: Image.new('RGB', (8, 8)).save(r / IMAGE_1, 'EPS'),
        r'no readable image in train2017: 1 \(',
    ),
    'no image': (
        'coco',
        lambda r: (r / IMAGE_1).write_text('<html>'),
        r'no readable image in train2017: 1 \(',
    ),
    'another size': (
        'coco',
        lambda r: cv2.imwrite(str(r / IMAGE_1), np.zeros((20, 30, 3), np.uint8)),
        r'Images of another size than annotated in train2017: 1 \(000000000001.jpg\); unpack',
    ),
    # ADE20K
    'ADE: extra level': (
        'ade20k',
        lambda r: nest(r, 'ADEChallengeData2016'),
        r'holds none of .*, but \S*/ade20k/ADEChallengeData2016 does; give that',
    ),
    'ADE: no masks': (
        'ade20k',
        lambda r: shutil.rmtree(r / 'annotations/validation'),
        'annotations/validation: not found; unpack ADEChallengeData2016.zip',
    ),
    'ADE: one mask less': (
        'ade20k',
        lambda r: (r / ADE_1).unlink(),
        r'without a mask in \S*training: 1 \(ADE_tr',
    ),
    'ADE: images in upper case': (
        'ade20k',
        lambda r: [f.rename(f.with_suffix('.JPG')) for f in list((r / 'images/training').iterdir())],
        'images/training: holds none that end in .jpg; unpack',
    ),
    'ADE: extra level of images': (
        'ade20k',
        lambda r: nest(r / 'images/training', 'training'),
        r'images/training whose masks lie in another folder below .*: 12 \(training/ADE_.*; lay out both',
    ),
    'ADE: thumbnails': (
        'ade20k',
        lambda r: (
            shutil.copytree(r / 'images/validation', r / 'images/training/.thumbs'),
            shutil.copytree(r / 'images/validation', r / 'images/training/@eaDir/A0.jpg'),
        ),
        r'without a mask in annotations/training: 12 \(.thumbs/ADE_val_00000001, .*; remove them, or unpack',
    ),
    'ADE: link to nowhere': (
        'ade20k',
        lambda r: cut_off(r / 'images/training/ADE_train_00000001.jpg'),
        r'Links in images/training that lead nowhere: 1 \(ADE_train_00000001.jpg\)',
    ),
    'ADE: swapped': (
        'ade20k',
        lambda r: swap(r / 'images/training', r / 'images/validation'),
        'images/training whose masks are in annotations/validation: 6 ',
    ),
    'ADE: colours': (
        'ade20k',
        lambda r: mask(r / ADE_1, np.full((8, 8, 3), 7, np.uint8)),
        r'colours instead of labels in annotations/training: 1 \(ADE_train_00000001.png\); unpack',
    ),
    'ADE: full': (
        'ade20k',
        lambda r: [f.rename(f.with_name(f'{f.stem}_seg.png')) for f in list(r.glob('annotations/*/*.png'))],
        '_seg.png: is of the full ADE20K',
    ),
    'ADE: label 151': (
        'ade20k',
        lambda r: relabel(r / ADE_1, 151),
        r'labels above 150 in \S*training: 1 \(ADE',
    ),
    'ADE: another size': (
        'ade20k',
        lambda r: mask(r / ADE_1, np.zeros((8, 8), np.uint8)),
        r'Masks of another size than their image in annotations/training: 1 \(ADE_train_00000001.png\)',
    ),
    'ADE: truncated mask': (
        'ade20k',
        lambda r: cut(r / ADE_1, -500),
        r'Truncated files in annotations/training: 1',
    ),
    'ADE: a pipe': (
        'ade20k',
        lambda r: ((r / ADE_1).unlink(), os.mkfifo(r / ADE_1)),
        r'Empty files in annotations/training: 1 \(ADE',
    ),
    'ADE: empty mask': ('ade20k', lambda r: cut(r / ADE_1, 0), r'Empty files in annotations/training: 1'),
    'ADE: truncated image': (
        'ade20k',
        lambda r: cut(r / 'images/validation/ADE_val_00000002.jpg', -2),
        r'Truncated files in images/validation: 1 \(ADE_val_00000002.jpg\)',
    ),
    # ImageNet
    'ImageNet: extra levels': (
        'imagenet',
        lambda r: nest(r, 'ILSVRC/Data/CLS-LOC'),
        r'holds none of train, val, but \S*/imagenet/ILSVRC/Data/CLS-LOC does; give that',
    ),
    'ImageNet: extra level of a split': (
        'imagenet',
        lambda r: nest(r / 'train', 'train'),
        r'train: its class folders lie one folder too deep, in \S*train/train; move them up',
    ),
    'ImageNet: flat': (
        'imagenet',
        lambda r: flatten(r / 'val'),
        r'lie in val itself and not in class folders: 6 \(ILSVRC2012_val_00000001.JPEG,.*valprep.sh',
    ),
    'ImageNet: no val': (
        'imagenet',
        lambda r: shutil.rmtree(r / 'val'),
        '/val: not found; unpack ImageNet-1k',
    ),
    'ImageNet: empty val': (
        'imagenet',
        lambda r: (shutil.rmtree(r / 'val'), (r / 'val').mkdir()),
        '/val: is empty; unpack ImageNet-1k',
    ),
    'ImageNet: one class less': (
        'imagenet',
        lambda r: shutil.rmtree(r / 'val/n02708093'),
        r'(?s)val: 5 class folders, expected 6;.*train has and val lacks: 1 \(n02708093\)',
    ),
    'ImageNet: other names': (
        'imagenet',
        lambda r: [(r / split / 'n02708093').rename(r / split / 'clock') for split in ('train', 'val')],
        r'Class folders in train with names unlike n01440764: 1 \(clock\); rename them',
    ),
    'ImageNet: hidden folder': (
        'imagenet',
        lambda r: (r / 'train/.ipynb_checkpoints').mkdir(),
        r'in train with names unlike n01440764: 1 \(.ipynb_checkpoints\).*\n.*train: 7 class folders',
    ),
    'ImageNet: flat beside a hidden folder': (
        'imagenet',
        lambda r: (flatten(r / 'val'), (r / 'val/.ipynb_checkpoints').mkdir()),
        'lie in val itself and not in class folders: 6 ',
    ),
    'ImageNet: links to nowhere': (
        'imagenet',
        lambda r: (cut_off(r / CLS_1), shutil.rmtree(r / 'train/n04612504'), cut_off(r / 'train/n04612504')),
        r'Links in train that lead nowhere: 2 \(n02708093/n02708093_1.JPEG, n04612504\)',
    ),
    'ImageNet: a class without images': (
        'imagenet',
        lambda r: [file.unlink() for file in (r / 'val/n02708093').iterdir()],
        r'Class folders in val without an image: 1 \(n02708093\)',
    ),
    'ImageNet: truncated': (
        'imagenet',
        lambda r: cut(r / CLS_1, -2),
        r'Truncated files in train: 1 \(n02708093/n',
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_named(copy, mistake):
    name, spoil, words = MISTAKES[mistake]
    root = copy(name)
    spoil(root)
    found = audit(name, root)
    sentences = '\n'.join(finding.sentence for finding in found.findings)
    assert re.search(words, sentences), sentences
    assert found.verdict == 'not usable'


def test_the_official_set_is_complete(made, copy, monkeypatch):
    for name, numbers in (('ade20k', dict(training=12, validation=6)), ('imagenet', dict(train=12, val=6))):
        assert audit(name, made[name]).verdict == 'usable, but not the official set'
        monkeypatch.setattr({'ade20k': ade20k, 'imagenet': imagenet}[name], 'OFFICIAL', numbers)
        assert audit(name, made[name]).verdict == 'complete'
    root = copy('coco')
    official = {}
    for split, images in (('train', 12), ('val', 6)):
        data = (root / f'annotations/instances_{split}2017.json').read_bytes()
        instances = len(json.loads(data)['annotations'])
        official[split] = coco.Official(images, instances, hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(coco, 'OFFICIAL', official)
    (root / 'val2017' / '.DS_Store').touch()
    found = audit('coco', root)
    assert found.verdict == 'complete' and not found.findings
    assert found.counts[-1] == ('val', 'instances', official['val'].instances, official['val'].instances)
    # Equal numbers are not equal content.
    edit(root / VAL, lambda content: content['annotations'][0].update(bbox=[0, 0, 1, 1]))
    found = audit('coco', root)
    assert found.verdict == 'usable, but not the official set'
    (finding,) = found.findings
    assert 'val2017.json: has the official numbers' in finding.sentence


UNUSED = {
    'other files': (
        'coco',
        lambda r: (r / 'val2017' / 'notes.txt').touch(),
        r'Files in val2017 that do not end in .*: 1 \(notes',
    ),
    'images without annotation': (
        'coco',
        lambda r: edit(
            r / VAL,
            lambda c: c.update(
                images=c['images'][1:], annotations=[a for a in c['annotations'] if a['image_id'] != 1]
            ),
        ),
        r'val2017.json does not name: 1 \(900000000001.jpg\); they are not used',
    ),
    'masks without image': (
        'ade20k',
        lambda r: (r / 'images/training/ADE_train_00000001.jpg').unlink(),
        r'Masks in annotations/training without an image in images/training: 1 \(ADE_train_00000001\)',
    ),
    'pairs in folders below': (
        'ade20k',
        lambda r: [
            shutil.copytree(r / kind / 'validation', r / kind / 'training/more')
            for kind in ('images', 'annotations')
        ],
        r'Images in folders below images/training: 6 \(more/ADE_val_00000001, .*; they are used, too',
    ),
    'masks that may be shifted': ('ade20k', lambda r: relabel(r / ADE_1, 255), 'the label 255 in .*: 1 '),
    'files in class folders': (
        'imagenet',
        lambda r: (r / CLS_1).with_name('notes.txt').touch(),
        r'Files in train that are no images of a class: 1 \(n02708093/notes.txt\); they are not used',
    ),
}


@pytest.mark.parametrize('what', UNUSED)
def test_what_stops_no_training_is_a_note(copy, what):
    name, change, words = UNUSED[what]
    root = copy(name)
    change(root)
    found = audit(name, root)
    (finding,) = found.findings
    assert re.search(words, finding.sentence), finding.sentence
    assert found.verdict == 'usable, but not the official set'


def test_images_are_those_that_training_lists(copy):
    root = copy('ade20k')
    for kind in ('images', 'annotations'):
        shutil.copytree(root / kind / 'validation', root / kind / 'training/.more/deeper')
    (root / 'images/training/._x.jpg').touch()
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    listed = len(ADE20KDataset(data_root=str(root), data_prefix=prefix, pipeline=[]))
    assert audit('ade20k', root).counts[:2] == [
        ('training', 'images', listed, 20_210),
        ('training', 'masks', listed, 20_210),
    ]
    root = copy('imagenet')
    shutil.copytree(root / 'val/n02708093', root / 'train/n02708093/.more/deeper')
    (root / 'train/n02708093/._x.JPEG').touch()
    found = audit('imagenet', root)
    listed = len(CustomDataset(data_root=str(root), data_prefix='train', pipeline=[]))
    assert found.counts[1] == ('train', 'images', listed, 1_281_167)
    assert not found.findings


def test_coco_names_may_be_in_upper_case_and_have_folders(copy):
    root = copy('coco')
    names = ('a/x.JPG', 'b.JPG', '../c.jpg')
    (root / 'train2017/a').mkdir()
    for i, name in enumerate(names):
        (root / f'train2017/{i + 1:012d}.jpg').rename(root / 'train2017' / name)
    edit(root / TRAIN, lambda c: [c['images'][i].update(file_name=name) for i, name in enumerate(names)])
    assert not audit('coco', root).findings
    cut(root / 'c.jpg', -2)
    assert [finding.sentence for finding in audit('coco', root).findings] == [
        'Truncated files in train2017: 1 (../c.jpg); fetch or copy them again.'
    ]


@pytest.mark.skipif(not Path('/proc/self/mem').exists(), reason='no file whose reading fails')
@pytest.mark.parametrize('name', [ADE_1, 'images/training/ADE_train_00000001.jpg'])
def test_a_file_that_the_system_does_not_let_be_read_is_no_broken_image(copy, name):
    root = copy('ade20k')
    (root / name).unlink()
    (root / name).symlink_to('/proc/self/mem')  # Opens, and gives an input/output error at its start.
    with pytest.raises(UserError, match=rf'^{root / name}: cannot be read \(Input/output error\)'):
        audit('ade20k', root)


def test_a_private_folder_beside_the_data_set_is_passed_over(copy):
    root = copy('coco')
    private = root.parent / 'lost+found'
    private.mkdir(0)
    if os.access(private, os.X_OK):
        pytest.skip('root may look into every folder')
    (finding,) = audit('coco', root.parent).findings
    assert f'but {root} does; give that' in finding.sentence


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
    assert found.verdict == 'usable, but not the official set' and not found.findings
    assert {count.split for count in found.counts} == {'validation' if name == 'ade20k' else 'val'}


def test_a_path_inside_of_the_data_set_is_led_out_of_it(made):
    for name, inside in (('coco', 'val2017'), ('ade20k', 'images'), ('imagenet', 'train/n02708093')):
        (finding,) = audit(name, made[name] / inside).findings
        assert finding.sentence.endswith(f'lies inside of the data set; give {made[name]} as PATH.')


def test_bytes_behind_an_image_are_fine_and_a_spoilt_middle_is_found_by_decoding(copy):
    root = copy('imagenet')
    file = root / CLS_1
    file.write_bytes(file.read_bytes() + b'\0' * 10_000)
    assert audit('imagenet', root, decode=True).usable
    data = bytearray(file.read_bytes())
    table = data.rindex(b'\xff\xc4')  # Of the Huffman codes: mark, two bytes of length, one of class.
    data[table + 5 : table + 21] = b'\xff' * 16
    file.write_bytes(data)
    assert audit('imagenet', root).usable
    assert 'no readable image in train: 1' in audit('imagenet', root, decode=True).findings[-1].sentence
    # ImageNet has a PNG under a JPEG's name.
    data = cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    file.write_bytes(data)
    assert audit('imagenet', root, decode=True).usable
    file.write_bytes(data[:-2])
    assert 'Truncated files in train: 1' in audit('imagenet', root).findings[-1].sentence


def test_an_image_that_its_exif_turns_has_the_size_of_the_turned_one(copy):
    root = copy('coco')
    cv2.imwrite(str(root / IMAGE_1), np.zeros((20, 30, 3), np.uint8))
    data = (root / IMAGE_1).read_bytes()
    # One entry: orientation (0x0112), a short, 6 = turned by 90 degrees.
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'

    def put(exif: bytes) -> None:
        segment = b'\xff\xe1' + (2 + len(exif)).to_bytes(2, 'big') + exif
        (root / IMAGE_1).write_bytes(data[:2] + segment + data[2:])

    put(exif)
    assert cv2.imread(str(root / IMAGE_1)).shape == (30, 20, 3)
    edit(root / TRAIN, lambda content: [a.update(segmentation=[[0] * 6]) for a in content['annotations']])
    edit(root / TRAIN, lambda content: content['images'][0].update(width=20, height=30))
    assert audit('coco', root).usable
    edit(root / TRAIN, lambda content: content['images'][0].update(width=30, height=20))
    assert not audit('coco', root).usable
    for broken in (exif[:16], b'Exif\0\0?'):
        put(broken)
        assert cv2.imread(str(root / IMAGE_1)).shape == (20, 30, 3)
        assert audit('coco', root).usable


@pytest.mark.parametrize(
    ('name', 'config'),
    [
        ('coco', 'detection/maskrcnn_iformer_m_coco.py'),
        ('ade20k', 'segmentation/fpn_iformer_m_ade20k.py'),
        ('imagenet', 'classification/iformer_m_in1k.py'),
    ],
)
def test_it_looks_where_the_configs_do_and_they_point_to_it(root, monkeypatch, name, config):
    for value in (None, '', 'elsewhere'):
        monkeypatch.delenv('MMIFORMER_DATA', raising=False)
        if value is not None:
            monkeypatch.setenv('MMIFORMER_DATA', value)
        folder = default_root(name)  # Before the config, whose loader drops an empty variable.
        cfg = load_config(str(root / 'configs' / config))
        assert Path(cfg.data_root) == folder
    with pytest.raises(UserError, match=f'`python tools/check_data.py {name} {cfg.data_root}` says'):
        check_files(cfg, ('train',))
    cfg.train_dataloader.dataset.metainfo = dict(classes=('a', 'b'))
    with pytest.raises(UserError) as error:
        check_files(cfg, ('train',))
    assert 'check_data' not in str(error.value)


def test_constants_are_those_of_the_stack():
    assert CocoDataset.METAINFO['classes'] == coco.CLASSES
    assert set(ImageNet.IMG_EXTENSIONS) <= set(IMAGE_SUFFIXES)


def test_real_images(real_data):
    found = audit('coco', real_data / 'coco', decode=True)
    assert found.usable, found.findings
    numbers = {(count.split, count.what): count.found for count in found.counts}
    for split in ('train', 'val'):
        content = json.loads((real_data / f'coco/annotations/instances_{split}2017.json').read_text())
        assert numbers[split, 'images on disk'] == len(list((real_data / f'coco/{split}2017').glob('*.jpg')))
        assert numbers[split, 'images annotated'] == len(content['images'])
        assert numbers[split, 'instances'] == len(content['annotations'])
    ade = audit('ade20k', real_data / 'ade/ADEChallengeData2016')
    assert ade.usable and not ade.findings
