import random
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from scipy.stats import kurtosis
from timm.data.random_erasing import RandomErasing

from mmiformer.utils.errors import UserError

KIND = 'mmiformer.datasets.classification.CheckedFolderDataset'
IMAGENET = 'mmiformer.datasets.classification.CheckedImageNet'
CLASSES = ('cat', 'ant', 'bee')  # Not in alphabetical order.


@pytest.fixture
def data(tmp_path):
    """Three classes of two images each, in two splits."""
    init_default_scope('mmpretrain')
    for split in ('train', 'val'):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(tmp_path / split / name / f'{i}.jpg'), np.zeros((8, 8, 3), np.uint8))
    return tmp_path


def build(root, split: str = 'val', kind: str = KIND, classes: tuple | None = CLASSES, **options):
    metainfo = dict(classes=classes) if classes else None
    return DATASETS.build(
        dict(type=kind, data_root=str(root), data_prefix=split, metainfo=metainfo, pipeline=[], **options)
    )


def test_labels_follow_the_declared_classes(data):
    dataset = build(data)
    found = {d['img_path'].split('/')[-2]: d['gt_label'] for d in map(dataset.get_data_info, range(6))}
    assert found == {'cat': 0, 'ant': 1, 'bee': 2}


def test_a_missing_class_folder_is_named(data):
    shutil.rmtree(data / 'val' / 'ant')
    # mmpretrain's own takes the two that are left for classes 0 and 1.
    theirs = DATASETS.build(dict(type='CustomDataset', data_root=str(data), data_prefix='val', pipeline=[]))
    assert {theirs.get_data_info(i)['gt_label'] for i in range(len(theirs))} == {0, 1}
    with pytest.raises(UserError, match='val: has 2 class folders, but .* declares 3 .*unknown: ant'):
        build(data)


def test_unknown_and_empty_class_folders_are_named(data):
    (data / 'val' / 'ant' / '0.jpg').rename(data / 'val' / 'ant' / '0.txt')
    (data / 'val' / 'ant' / '1.jpg').unlink()
    with pytest.raises(UserError, match=r'val/ant: holds no image \(.*\.jpg'):
        build(data)
    (data / 'val' / 'thumbnails').mkdir()
    with pytest.raises(UserError, match='4 class folders, but .* missing or unknown: thumbnails'):
        build(data)
    (data / 'val' / 'thumbnails').rmdir()
    (data / 'val' / 'ant').rename(data / 'val' / 'Ant')
    with pytest.raises(UserError, match='3 class folders, but .* missing or unknown: Ant, ant'):
        build(data)
    with pytest.raises(UserError, match='its dataset declares no classes; set metainfo'):
        build(data, classes=None)


def test_imagenet_folders_are_numbered_in_alphabetical_order(data):
    dataset = build(data, kind=IMAGENET, classes=('Formica', 'Apis', 'Felis'))
    found = {d['img_path'].split('/')[-2]: d['gt_label'] for d in map(dataset.get_data_info, range(6))}
    assert found == {'ant': 0, 'bee': 1, 'cat': 2}


def test_imagenet_needs_a_thousand_folders(data):
    with pytest.raises(UserError, match='val: has 3 class folders, but the dataset declares 1000'):
        build(data, kind=IMAGENET, classes=None)


def test_labels_in_an_annotation_file(data):
    (data / 'val.txt').write_text('cat/0.jpg 2\nant/0.jpg 0\n')
    dataset = build(data, ann_file='val.txt')
    assert [dataset.get_data_info(i)['gt_label'] for i in range(2)] == [2, 0]
    (data / 'val.txt').write_text('cat/0.jpg 2\nant/0.jpg 3\n')
    for wrong in ('ant/0.jpg 3', 'ant/0.jpg', 'ant/0.jpg,0', 'ant/0.jpg one', 'ant/0.jpg -1', ''):
        (data / 'val.txt').write_text(f'cat/0.jpg 2\n{wrong}\n')
        with pytest.raises(UserError, match=rf"val\.txt: line 2 is '{wrong}', expected .* 0 to 2"):
            build(data, ann_file='val.txt')
    with pytest.raises(UserError, match=r'val\.txt: its dataset declares no classes'):
        build(data, ann_file='val.txt', classes=None)


def test_other_suffixes_are_not_used(data):
    (data / 'val' / 'ant' / '0.jpg').rename(data / 'val' / 'ant' / '0.WEBP')
    assert len(build(data)) == 6
    (data / 'val' / 'ant' / '0.WEBP').rename(data / 'val' / 'ant' / '0.heic')
    assert len(build(data)) == 5


def test_images_from_an_lmdb(data):
    """As in docs/classification.md: paths are keys, and an annotation file lists them."""
    lmdb = pytest.importorskip('lmdb')
    files = sorted((data / 'train').rglob('*.jpg'))
    with lmdb.open(str(data / 'train.lmdb'), map_size=2**20) as env, env.begin(write=True) as writer:
        for file in files:
            writer.put(str(file.relative_to(data / 'train')).encode(), file.read_bytes())
    labels = {name: i for i, name in enumerate(CLASSES)}
    lines = [f'{f.relative_to(data / "train")} {labels[f.parent.name]}\n' for f in files]
    (data / 'train.txt').write_text(''.join(lines))
    backend = dict(backend='lmdb', db_path=str(data / 'train.lmdb'))
    for kind in (KIND, IMAGENET):
        dataset = DATASETS.build(
            dict(
                type=kind,
                ann_file=str(data / 'train.txt'),
                data_root='',
                data_prefix='',
                metainfo=dict(classes=CLASSES),
                pipeline=[dict(type='LoadCheckedImage', imdecode_backend='pillow', backend_args=backend)],
            )
        )
        found = [dataset[i] for i in range(len(dataset))]
        assert [f['gt_label'] for f in found] == [labels[f.parent.name] for f in files]
        assert all(np.array_equal(f['img'], cv2.imread(str(p))) for f, p in zip(found, files, strict=True))
    with pytest.raises(UserError, match="cat/9.jpg: not in .*'lmdb'"):
        dataset.pipeline(dict(img_path='cat/9.jpg'))


def test_erased_pixels_are_timms():
    """The same shares of images and pixels, N(0, 1) after the normalisation."""
    random.seed(0), np.random.seed(0)
    mean, std = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])
    options = dict(erase_prob=0.25, fill_color=mean.tolist(), fill_std=std.tolist(), max_area_ratio=1 / 3)
    ours = TRANSFORMS.build(dict(type='mmiformer.datasets.classification.PixelErasing', **options))
    theirs = RandomErasing(0.25, mode='pixel', device='cpu')
    shares, noise = [], []
    for _ in range(4000):
        image = ours(dict(img=np.full((24, 30, 3), 255, np.uint8)))['img']
        erased = (image != 255).all(2)
        noise.append((image[erased] - mean) / std)
        shares.append([erased.mean(), (theirs(torch.full((3, 24, 30), 9.0)) != 9).all(0).double().mean()])
    shares, noise = np.array(shares), np.concatenate(noise)
    found, expected = shares.T
    assert (found > 0).mean() == pytest.approx((expected > 0).mean(), abs=0.03)
    assert found[found > 0].mean() == pytest.approx(expected[expected > 0].mean(), abs=0.01)
    assert found.max() == pytest.approx(expected.max(), abs=0.02)
    assert noise.dtype == np.float64 and noise.mean(0) == pytest.approx(0, abs=0.01)
    assert noise.std(0) == pytest.approx(1, abs=0.01)
    assert kurtosis(noise.ravel()) == pytest.approx(0, abs=0.05), 'not clipped'
