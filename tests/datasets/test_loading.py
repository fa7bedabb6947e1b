import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope

from mmiformer.utils.errors import UserError


@pytest.fixture
def image(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.jpg'), pixels)
    return tmp_path / 'a.jpg'


def load(path: Path, backend: str = 'cv2') -> dict:
    cfg = dict(type='LoadCheckedImage', imdecode_backend=backend)
    return TRANSFORMS.build(cfg)(dict(img_path=str(path)))


def test_reads_what_opencv_reads(image):
    found = load(image)
    assert np.array_equal(found['img'], cv2.imread(str(image)))
    assert found['img_shape'] == found['ori_shape'] == (40, 60)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda d: d[: len(d) // 2], 'truncated JPEG'),
        (lambda d: d[:-2], 'truncated JPEG'),
        (lambda d: b'', 'not a readable image'),
        (lambda d: b'plain text', 'not a readable image'),
    ],
)
def test_broken_images_are_named(image, spoil, words, backend):
    image.write_bytes(spoil(image.read_bytes()))
    with pytest.raises(UserError, match=words) as error:
        load(image, backend)
    assert str(image) in str(error.value)


def test_complete_images_with_trailing_bytes_or_a_thumbnail_are_read(image):
    data = image.read_bytes()
    image.write_bytes(data + b'\0' * 64)
    load(image)
    # A thumbnail inside of the header has an end mark of its own, before the image's scan.
    thumbnail = b'\xff\xe1' + (2 + len(data)).to_bytes(2, 'big') + data
    image.write_bytes(data[:2] + thumbnail + data[2:])
    load(image)
    image.write_bytes(data[:2] + thumbnail + data[2:-200])
    with pytest.raises(UserError, match='truncated JPEG'):
        load(image)


def test_real_images_are_read(real_data):
    for path in sorted((real_data / 'coco' / 'val2017').glob('*.jpg')):
        load(path)


def annotations(tmp_path: Path, **changes) -> dict:
    content = dict(
        images=[
            dict(id=1, file_name='a.jpg', width=60, height=40),
            dict(id=2, file_name='b.jpg', width=60, height=40),
        ],
        categories=[dict(id=3, name='kite'), dict(id=7, name='clock')],
        annotations=[
            dict(id=1, image_id=1, category_id=3, bbox=[1, 1, 10, 10], area=100, iscrowd=0),
            dict(id=2, image_id=2, category_id=7, bbox=[5, 5, 20, 10], area=200, iscrowd=0),
        ],
    )
    content.update(changes)
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    init_default_scope('mmdet')
    return dict(
        type='mmiformer.datasets.coco.CheckedCocoDataset',
        data_root=str(tmp_path),
        ann_file='ann.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('kite', 'clock')),
        pipeline=[],
    )


def test_valid_annotations_keep_their_labels(tmp_path):
    dataset = DATASETS.build(annotations(tmp_path))
    assert [d['instances'][0]['bbox_label'] for d in dataset.load_data_list()] == [0, 1]


def test_skipped_boxes_are_logged_with_the_image(tmp_path, monkeypatch):
    box = dict(image_id=2, category_id=7, area=1, iscrowd=0)
    bad = [
        dict(box, id=5, bbox=[5, 5, 0, 0]),
        dict(box, id=6, bbox=[5, 5, 9, 0.5]),
        dict(box, id=7, bbox=[100, 5, 9, 9]),
        dict(box, id=8, bbox=[5, 5, 9, 9], category_id=99),
    ]
    logged = []
    monkeypatch.setattr('mmiformer.datasets.coco.print_log', lambda text, **_: logged.append(text))
    dataset = DATASETS.build(annotations(tmp_path, annotations=bad))
    assert all(not d['instances'] for d in dataset.load_data_list())
    assert any('3 boxes without area' in t and 'b.jpg' in t and 'ann.json' in t for t in logged)
    assert any('1 boxes of a category that the file does not declare' in t for t in logged)


def test_a_missing_category_and_another_order_are_errors(tmp_path):
    one = [dict(id=3, name='kite')]
    with pytest.raises(UserError, match="categories kite are not the dataset's classes kite, clock"):
        DATASETS.build(annotations(tmp_path, categories=one))
    swapped = [dict(id=3, name='clock'), dict(id=7, name='kite')]
    with pytest.raises(UserError, match='order of the file'):
        DATASETS.build(annotations(tmp_path, categories=swapped))
