from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image

from mmiformer.datasets.checks import check_classes, check_files, dataset_meta, datasets_of
from mmiformer.utils.errors import UserError

CLASSES = ('sky', 'sea', 'boat')


@pytest.fixture
def data(tmp_path) -> dict:
    """Config of a data set of two images; its masks hold the labels 0, 1, 2, 3 (void) and 255."""
    init_default_scope('mmseg')
    for folder in ('img', 'ann'):
        (tmp_path / folder).mkdir()
    labels = np.random.default_rng(0).choice([0, 1, 2, 3, 255], (40, 60)).astype(np.uint8)
    for name in ('a', 'b'):
        cv2.imwrite(str(tmp_path / 'img' / f'{name}.jpg'), np.zeros((40, 60, 3), np.uint8))
        cv2.imwrite(str(tmp_path / 'ann' / f'{name}.png'), labels)
    return dict(
        type='mmiformer.datasets.segmentation.CheckedSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(classes=CLASSES),
        void=[3],
        pipeline=[dict(type='LoadCheckedImage'), dict(type='LoadCheckedSegMap')],
    )


def mask_of(data: dict, name: str = 'a') -> Path:
    return Path(data['data_root'], 'ann', f'{name}.png')


def write(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(path, 'png' if labels.dtype.kind in 'bu' else 'tiff')


def read(data: dict) -> np.ndarray:
    return DATASETS.build(data)[0]['gt_seg_map']


def test_labels_are_classes_and_void_is_ignored(data):
    raw, found = cv2.imread(str(mask_of(data)), -1), read(data)
    assert found.dtype == np.uint8
    for label, index in ((0, 0), (1, 1), (2, 2), (3, 255), (255, 255)):
        assert (found[raw == label] == index).all() and (raw == label).any()


def test_ade_masks_are_read_as_by_mmseg(data, tmp_path):
    """0 is unlabelled, 1..150 are classes; also where only some classes are wanted."""
    labels = np.arange(151, dtype=np.uint8)[:, None].repeat(60, 1)
    write(mask_of(data), labels)
    cv2.imwrite(str(tmp_path / 'img' / 'a.jpg'), np.zeros((151, 60, 3), np.uint8))
    for classes in (None, ('tree', 'sky', 'flag')):
        ours = dict(data, type='mmiformer.datasets.segmentation.CheckedADE20KDataset', void=[])
        ours['metainfo'] = dict(classes=classes) if classes else None
        theirs = {**ours, 'type': 'ADE20KDataset', 'pipeline': [dict(type='LoadAnnotations')]}
        theirs.pop('void')
        found, expected = DATASETS.build(ours), DATASETS.build(theirs)
        assert np.array_equal(found[0]['gt_seg_map'], expected[0]['gt_seg_map'])
        assert found.metainfo == expected.metainfo
        assert (found[0]['gt_seg_map'] != 255).any() and (found[0]['gt_seg_map'][0] == 255).all()


def test_palette_images_hold_labels_not_colours(data):
    image = Image.fromarray(np.full((40, 60), 2, np.uint8), 'P')
    image.putpalette([9, 99, 199] * 256)
    image.save(mask_of(data))
    assert (read(data) == 2).all()


def test_masks_of_one_bit_and_a_16_bit_void(data):
    mask = np.random.default_rng(1).choice([False, True], (40, 60))
    write(mask_of(data), mask)
    assert np.array_equal(read(data), mask)
    write(mask_of(data), np.where(mask, 65535, 2).astype(np.uint16))
    assert np.array_equal(read(dict(data, void=[65535])), np.where(mask, 255, 2))


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda p: write(p, np.zeros((40, 59), np.uint8)), '59x40 pixels, but its image .*a.jpg has 60x40'),
        (lambda p: write(p, np.full((40, 60), 4, np.uint8)), 'has label 4, but .* declares 0 to 3'),
        (lambda p: write(p, np.full((40, 60), 254, np.uint8)), 'has label 254'),
        # 258 is 2 in eight bits: mmseg would train on it.
        (lambda p: write(p, np.full((40, 60), 258, np.uint16)), 'has label 258'),
        (lambda p: write(p, np.zeros((40, 60, 3), np.uint8)), 'mode RGB, expected one channel'),
        # mmseg would take the first for class 1.
        (lambda p: write(p, np.full((40, 60), -255, np.int32)), 'has label -255'),
        (
            lambda p: write(p, np.full((40, 60), 0.5, np.float32)),
            'mode F, expected one channel',
        ),
        (lambda p: p.write_bytes(p.read_bytes()[:60]), 'not a readable mask'),
        (lambda p: p.write_bytes(b''), 'not a readable mask'),
    ],
)
def test_wrong_masks_are_named(data, spoil, words):
    spoil(mask_of(data))
    with pytest.raises(UserError, match=words) as error:
        read(data)
    assert str(error.value).startswith(str(mask_of(data)))


def test_a_label_above_150_in_ades_coding(data):
    write(mask_of(data), np.full((40, 60), 151, np.uint8))
    ade = dict(data, type='mmiformer.datasets.segmentation.CheckedADE20KDataset', metainfo=None, void=[])
    with pytest.raises(UserError, match='has label 151, but the dataset declares 0 to 150'):
        read(ade)


def test_missing_files_are_found_before_the_first_step(data, tmp_path, monkeypatch):
    logged: list[str] = []
    monkeypatch.setattr('mmiformer.datasets.segmentation.print_log', lambda text, **_: logged.append(text))
    (tmp_path / 'img' / 'b.jpg').rename(tmp_path / 'img' / 'b.jpeg')
    assert len(DATASETS.build(data)) == 1
    assert len(logged) == 1 and '1 masks have no image' in logged[0] and "'.jpg'" in logged[0]
    mask_of(data).unlink()
    with pytest.raises(UserError, match=r'a\.png: mask not found \(1 of 1 images'):
        DATASETS.build(data)
    (tmp_path / 'img' / 'a.jpg').unlink()
    with pytest.raises(UserError, match="img: holds no image that ends in '.jpg'"):
        DATASETS.build(data)


def test_masks_below_a_linked_folder_are_found_as_images_are(data, tmp_path):
    for folder in ('img', 'ann'):
        (tmp_path / f'{folder}2').mkdir()
        (tmp_path / f'{folder}2' / 'city').symlink_to(tmp_path / folder)
    assert len(DATASETS.build(dict(data, data_prefix=dict(img_path='img2', seg_map_path='ann2')))) == 2


def test_a_mask_that_is_removed_later_is_named(data):
    dataset = DATASETS.build(data)
    mask_of(data).unlink()
    with pytest.raises(UserError, match=r'a\.png: no such file'):
        dataset[0]


def test_real_masks_of_both_formats(real_data):
    init_default_scope('mmseg')
    steps = [TRANSFORMS.build(dict(type=t)) for t in ('LoadCheckedImage', 'LoadCheckedSegMap')]
    for config, folder in (('ade20k', 'ade/ADEChallengeData2016'), ('camvid', 'camvid')):
        if not (real_data / folder).is_dir():
            pytest.skip(f'no {folder} in {real_data}')
        cfg = Config.fromfile(f'{Path(__file__).parents[2]}/configs/segmentation/fpn_iformer_t_{config}.py')
        cfg.test_dataloader.dataset.data_root = str(real_data / folder)
        dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=[]))
        seen = set()
        for i in range(0, len(dataset), 10):
            info = dataset.get_data_info(i)
            for step in steps:
                info = step(info)
            seen |= set(np.unique(info['gt_seg_map']).tolist())
        assert len(seen) > 10 and max(seen - {255}) < len(dataset.metainfo['classes'])


def heads(num_classes: int, auxiliary: int) -> dict:
    return dict(decode_head=dict(num_classes=num_classes), auxiliary_head=[dict(num_classes=auxiliary)])


def test_heads_must_have_the_classes_of_the_data(data):
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=data), model=heads(3, 3)))
    check_classes(cfg, 'train')
    cfg.model = heads(150, 3)
    with pytest.raises(UserError, match=r'model.decode_head.num_classes: 150, but .* 3 classes \(sky, sea'):
        check_classes(cfg, 'train')
    cfg.model = heads(3, 4)
    with pytest.raises(UserError, match=r'model.auxiliary_head.0.num_classes: 4'):
        check_classes(cfg, 'train')
    # Looked for below wrappers too, and without a palette one is made up.
    for wrapper in (
        dict(type='RepeatDataset', times=2, dataset=data),
        dict(type='ConcatDataset', datasets=[data, dict(type='RepeatDataset', times=2, dataset=data)]),
    ):
        cfg.train_dataloader.dataset = wrapper
        with pytest.raises(UserError, match='num_classes: 4'):
            check_classes(cfg, 'train')
        assert np.shape(dataset_meta(cfg, 'train')['palette']) == (3, 3)
        check_files(cfg, 'train')
    assert len(datasets_of(cfg, 'train')) == 2
    datasets_of(cfg, 'train')[1].data_prefix.img_path = 'gone'
    with pytest.raises(UserError, match='gone: not found'):
        check_files(cfg, 'train')
    with pytest.raises(UserError, match='val_dataloader: the config has none'):
        dataset_meta(cfg, 'val')
