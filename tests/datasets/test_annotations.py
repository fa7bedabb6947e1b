"""Faulty annotations in COCO's format are skipped with a warning, or raise an error that names them."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask as rle

from mmiformer.datasets.annotations import NO_AREA, NO_CATEGORY, NO_PIXEL, NO_POLYGON, check_coco, read_coco
from mmiformer.datasets.checks import check_evaluators
from mmiformer.datasets.coco import RUN_LENGTHS
from mmiformer.utils.errors import UserError

CLASSES = ('kite', 'clock')
NAN, INF = math.nan, math.inf
TRIANGLE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]


def content() -> dict[str, Any]:
    """Two images and two boxes with masks."""
    return dict(
        images=[
            dict(id=1, file_name='a.jpg', width=60, height=40),
            dict(id=2, file_name='b.jpg', width=30, height=20),
        ],
        categories=[dict(id=3, name='kite'), dict(id=7, name='clock')],
        annotations=[
            dict(
                id=4, image_id=1, category_id=3, bbox=[1, 1, 8, 8], area=32, iscrowd=0, segmentation=TRIANGLE
            ),
            dict(
                id=5, image_id=2, category_id=7, bbox=[5, 5, 9, 9], area=81, iscrowd=0, segmentation=TRIANGLE
            ),
        ],
    )


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / 'ann.json'


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr('mmiformer.datasets.coco.print_log', lambda text, **_: lines.append(text))
    return lines


def build(
    file: Path, kind: str = 'mmiformer.datasets.coco.CheckedCocoDataset', **options: Any
) -> CocoDataset:
    init_default_scope('mmdet')
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=options.pop('masks', True))
    settings = dict(data_prefix=dict(img='images'), metainfo=dict(classes=CLASSES), pipeline=[load])
    settings['serialize_data'] = False  # It collects garbage, which is slow.
    return DATASETS.build(dict(type=kind, ann_file=str(file), **{**settings, **options}))


def boxes(dataset: CocoDataset) -> list[list[tuple[list[float], int]]]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [[(one['bbox'], one['bbox_label']) for one in info['instances']] for info in infos]


def annotation(**changes: Any):
    """Changes the second annotation; ``...`` removes a key."""

    def change(content: dict[str, Any]) -> None:
        content['annotations'][1].update(changes)
        for key in (key for key, value in changes.items() if value is Ellipsis):
            del content['annotations'][1][key]

    return change


def mask(segmentation: Any):
    return annotation(segmentation=segmentation)


def runs(counts: Any, size: Any = (20, 30)):
    return mask(dict(size=list(size), counts=counts))


def image(**changes: Any):
    return lambda content: content['images'][1].update(changes)


BOX = r"annotation \{'id': 5, .*; expected an id, .* a bbox of four numbers"
MASK = r"annotation \{'id': 5, .*; expected as segmentation polygons"
IMAGE = r'has the image .*; expected an id, a file_name, and width'
# Of a dataset for training with masks.
FAULTS = {
    'a NaN in a box': (annotation(bbox=[1, NAN, 8, 8]), BOX),
    'an infinite box': (annotation(bbox=[1, 1, INF, 8]), BOX),
    'a huge number': (annotation(bbox=[1, 1, 10**400, 8.5]), BOX),
    'a far box': (annotation(bbox=[-(10**6), 1, 8, 8]), BOX),
    'a null in a box': (annotation(bbox=[1, None, 8, 8]), BOX),
    'a box of three': (annotation(bbox=[1, 1, 8]), BOX),
    'a box of strings': (annotation(bbox=['1', '1', '8', '8']), BOX),
    'a NaN for an area': (annotation(area=NAN), BOX),
    'a string for a crowd': (annotation(iscrowd='0'), BOX),
    'a list for a category': (annotation(category_id=[7]), BOX),
    'a string for an id': (annotation(id='5'), r"annotation \{'id': '5'"),
    **{
        f'without {key}': (annotation(**{key: ...}), 'has the annotation .*; expected an id, the image_id')
        for key in ('id', 'image_id', 'category_id', 'bbox', 'area')
    },
    'an unknown image': (annotation(image_id=9), "'image_id': 9.*expected .* the image_id of a listed image"),
    'one annotation id twice': (annotation(id=4), 'has the annotation id 4 2 times'),
    'no object': (lambda c: c['annotations'].append([1]), r'has the annotation \[1\]; expected'),
    # Images
    'one image id twice': (image(id=1), 'has the image id 1 2 times'),
    'a NaN for an image id': (image(id=NAN), IMAGE),
    'no file_name': (image(file_name=None), IMAGE),
    'a negative width': (image(width=-30), IMAGE),
    'a huge height': (image(height=10**9), IMAGE),
    'a string for a width': (image(width='30'), IMAGE),
    # Categories
    'one category id twice': (lambda c: c['categories'][1].update(id=3), 'has the category id 3 2 times'),
    'one category name twice': (
        lambda c: c['categories'].append(dict(id=8, name='kite')),
        'categories kite, clock, kite are not',
    ),
    'a category without a name': (
        lambda c: c['categories'][1].pop('name'),
        r"has the category \{'id': 7\}; expected an id and a name",
    ),
    # Masks
    'no mask': (mask(...), MASK),
    'an empty mask': (mask([]), MASK),
    'a string for a mask': (mask('x'), MASK),
    'a NaN in a polygon': (mask([[1, NAN, 9, 1, 9, 9]]), MASK),
    'an infinite polygon': (mask([[1, INF, 9, 1, 9, 9]]), MASK),
    'a far polygon': (mask([[1, 10**9, 9, 1, 9, 9]]), MASK),
    'a polygon of a huge number': (mask([[1, 10**400, 9, 1.5, 9, 9]]), MASK),
    'a polygon of strings': (mask([['1', '1', '9', '1', '9', '9']]), MASK),
    'numbers for polygons': (mask([1, 1, 9, 1, 9, 9]), MASK),
    'an odd polygon': (mask([[1, 1, 9, 1, 9, 9, 5]]), MASK),
    'run lengths of another size': (runs([0, 600], (30, 20)), MASK),
    'run lengths without size': (mask(dict(counts=[0, 600])), MASK),
    'no counts': (runs(None), MASK),
    'too few pixels': (runs([10, 20]), MASK),
    'too many pixels': (runs([10, 20_000]), MASK),
    'negative counts': (runs([605, -5]), MASK),
    'fractions for counts': (runs([10, 20.5, 569.5]), MASK),
    'empty counts': (runs([]), MASK),
    'an empty string of counts': (runs(''), MASK),
    'counts that do not end': (runs('oooo'), MASK),
    'counts of other characters': (runs('\x01\xff hello'), MASK),
    'counts of another mask': (
        runs(rle.encode(np.ones((20, 29), np.uint8, order='F'))['counts'].decode()),
        MASK,
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_an_error(file, fault):
    change, words = FAULTS[fault]
    wrong = content()
    change(wrong)
    file.write_text(json.dumps(wrong))
    with pytest.raises(UserError, match=words) as error:
        build(file)
    assert str(error.value).startswith(f'{file}: ') and '\n' not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (annotation(iscrowd=...), BOX + '.*for evaluation also iscrowd'),
        (annotation(id=0), "annotation {'id': 0, .*for evaluation .* an id other than 0"),
        (mask([[1, 1, 9, 9], *TRIANGLE]), MASK + '.*for evaluation at least 3 points in the first'),
    ],
)
def test_a_fault_that_the_metric_cannot_handle_is_an_error_in_evaluation(file, warnings, change, words):
    wrong = content()
    change(wrong)
    file.write_text(json.dumps(wrong))
    assert len(boxes(build(file))) == 2
    with pytest.raises(UserError, match=words):
        build(file, test_mode=True)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (b'{"images": [', 'not JSON'),
        (b'\xff\xfe\xfd', 'not JSON'),
        (b'[' * 100_000, 'not JSON'),
        (b'[]', 'expected an object with lists'),
        (b'{"images": [], "annotations": []}', 'expected an object with lists'),
        (b'{"images": [], "categories": [], "annotations": null}', 'expected an object with lists'),
    ],
)
def test_a_file_of_another_format_is_an_error(file, text, words):
    file.write_bytes(text)
    with pytest.raises(UserError, match=words) as error:
        build(file)
    assert str(error.value).startswith(f'{file}: ') and '\n' not in str(error.value)


def test_a_missing_file_is_an_error(file):
    with pytest.raises(UserError, match=r'ann\.json: cannot be read \(No such file'):
        build(file)


def test_what_is_skipped_is_a_warning_with_names(file, warnings):
    data = content()
    for change in (
        dict(bbox=[5, 5, -3, 9]),
        dict(bbox=[5, 5, 0, 0]),
        dict(bbox=[5, 5, 9, 0.5]),
        dict(bbox=[90, 5, 9, 9]),
        dict(bbox=[-9, 5, 9, 9]),
        dict(area=0),
        dict(category_id=99),
        dict(segmentation=[[1, 1, 9, 9], *TRIANGLE]),
        dict(segmentation=[[1, 1, 9, 9], [2, 2]]),
        dict(segmentation=[[0.2, 0.3, 0.8, 0.3, 0.8, 0.4]]),  # Between 0 and 1 instead of in pixels.
        dict(segmentation=[[5, 5, 15, 15, 14.9, 15]]),
        dict(segmentation=dict(size=[20, 30], counts=[600])),
    ):
        data['annotations'].append({**data['annotations'][1], 'id': 10 + len(data['annotations']), **change})
    file.write_text(json.dumps(data))
    dataset = build(file)
    assert [len(found) for found in boxes(dataset)] == [1, 3]
    assert warnings == [
        f'{file}: 6 {NO_AREA} are skipped, in b.jpg.',
        f'{file}: 1 {NO_CATEGORY} are skipped, in b.jpg.',
        f'{file}: 3 {NO_POLYGON} are skipped, in b.jpg.',
        f'{file}: 3 {NO_PIXEL} are skipped, in b.jpg.',
    ]
    # An object without any polygon is left out of the losses, as mmdet does.
    loaded = dataset.pipeline(dict(dataset.get_data_info(1), ori_shape=(20, 30)))
    assert loaded['gt_ignore_flags'].tolist() == [False, False, True]


def test_run_lengths_are_a_warning_where_polygons_are_read(file, warnings):
    data = content()
    for annotation, (height, width) in zip(data['annotations'], ((40, 60), (20, 30)), strict=True):
        annotation['segmentation'] = dict(size=[height, width], counts=[0, height * width])
    data['annotations'][0]['iscrowd'] = 1  # Is left out in any case.
    file.write_text(json.dumps(data))
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
    dataset = build(file, pipeline=[load])
    assert warnings == [f'{file}: 1 {RUN_LENGTHS} are skipped, in b.jpg.']
    loaded = dataset.pipeline(dict(dataset.get_data_info(1), ori_shape=(20, 30)))
    assert loaded['gt_ignore_flags'].tolist() == [True]


def test_boxes_partly_outside_are_kept_and_box_detectors_need_no_masks(file, warnings):
    data = content()
    data['annotations'][0].update(bbox=[-4, -4, 100, 100], segmentation=[])
    data['annotations'][1].update(segmentation='junk')
    del data['annotations'][1]['iscrowd']
    data['images'][1]['file_name'] = '../elsewhere/b.jpg'
    file.write_text(json.dumps(data))
    dataset = build(file, masks=False)
    assert boxes(dataset) == [[([-4, -4, 96, 96], 0)], [([5, 5, 14, 14], 1)]]
    assert dataset.get_data_info(1)['img_path'] == 'images/../elsewhere/b.jpg'
    assert not warnings


def test_whole_numbers_with_a_point_are_sizes_and_images_without_boxes_an_error(file, warnings):
    data = content()
    data['images'][0].update(width=60.0, height=40.0)
    file.write_text(json.dumps(data))
    info = build(file).get_data_info(0)
    assert [type(info[key]) for key in ('width', 'height')] == [int, int] and info['width'] == 60
    data['annotations'] = []
    file.write_text(json.dumps(data))
    filtered = dict(filter_cfg=dict(filter_empty_gt=True))
    with pytest.raises(
        UserError, match=r'ann\.json: none of its 2 images has a box of kite, clock; annotate'
    ):
        build(file, **filtered)
    assert len(build(file, test_mode=True, **filtered)) == 2


def test_a_test_set_without_annotations_is_read(file):
    file.write_text(json.dumps({key: content()[key] for key in ('images', 'categories')}))
    assert boxes(build(file, test_mode=True)) == [[], []]


# -- Random faults ------------------------------------------------------------------------------

ODD = st.sampled_from(
    [NAN, INF, -INF, None, '7', [], {}, 0, -1, 0.5, 1, 2, 3, 7, 4.5, 29, 99, 10**7, -(10**9), 10**400]
)
KEYS = {
    'images': ['id', 'file_name', 'width', 'height'],
    'categories': ['id', 'name'],
    'annotations': ['id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'],
}


@st.composite
def coco_with_faults(draw: st.DrawFn) -> dict[str, Any]:
    data = content()
    coordinate = st.integers(-40, 80) | st.floats(-40, 80, width=16)
    for number in range(10, 10 + draw(st.integers(0, 4))):
        data['annotations'].append(
            dict(
                id=number,
                image_id=draw(st.sampled_from([1, 2])),
                category_id=draw(st.sampled_from([3, 7])),
                bbox=draw(st.lists(coordinate, min_size=4, max_size=4)),
                area=draw(st.integers(1, 50)),
                iscrowd=draw(st.sampled_from([0, 1])),
            )
        )
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(sorted(KEYS)))
        entry = draw(st.sampled_from(data[kind]))
        key = draw(st.sampled_from(KEYS[kind]))
        if draw(st.booleans()) and isinstance(entry.get('bbox'), list) and entry['bbox']:
            entry['bbox'][draw(st.integers(0, len(entry['bbox']) - 1))] = draw(ODD)
        elif draw(st.booleans()):
            entry[key] = draw(ODD)
        else:
            entry.pop(key, None)
    return data


def plainly_parsed(data: dict[str, Any]) -> tuple[list[list[tuple[list[float], int]]], int] | None:
    """Boxes by image, and the number of those skipped; None where something is not as it must be."""

    def number(value: Any, limit: float) -> bool:
        return isinstance(value, int | float) and -limit < value < limit

    def name(value: Any) -> bool:
        return isinstance(value, str) and value != ''

    for kind in KEYS:
        ids = [entry.get('id') for entry in data[kind]]
        kinds = (int,) if kind == 'annotations' else (int, str)
        if not all(isinstance(one, kinds) for one in ids) or any(ids.count(one) > 1 for one in ids):
            return None
    sizes = {}
    for one in data['images']:
        if not name(one.get('file_name')):
            return None
        for side in ('width', 'height'):
            if not isinstance(one.get(side), int) or not 0 < one[side] < 1e6:
                return None
        sizes[one['id']] = one['width'], one['height']
    if [one.get('name') for one in data['categories']] != list(CLASSES):
        return None
    labels = {one['id']: label for label, one in enumerate(data['categories'])}
    found: dict[Any, list[tuple[list[float], int]]] = {one: [] for one in sizes}
    skipped = 0
    for one in data['annotations']:
        box, category = one.get('bbox'), one.get('category_id')
        if not isinstance(box, list) or len(box) != 4 or not all(number(value, 1e6) for value in box):
            return None
        if sum(abs(value) for value in box) >= 1e6 or not number(one.get('area'), 1e12):
            return None
        if one.get('iscrowd', 0) not in (0, 1) or not isinstance(category, int | str):
            return None
        if isinstance(one.get('image_id', []), list | dict) or one['image_id'] not in sizes:
            return None
        x, y, w, h = box
        width, height = sizes[one['image_id']]
        left, right, top, bottom = max(x, 0), min(x + w, width), max(y, 0), min(y + h, height)
        if category not in labels or w < 1 or h < 1 or one['area'] <= 0 or right <= left or bottom <= top:
            skipped += 1
        else:
            found[one['image_id']].append(([x, y, x + w, y + h], labels[category]))
    return list(found.values()), skipped


def test_random_faults_give_the_plain_reading_or_an_error(tmp_path_factory, monkeypatch):
    file, warnings = tmp_path_factory.mktemp('coco') / 'ann.json', []
    monkeypatch.setattr('mmiformer.datasets.coco.print_log', lambda text, **_: warnings.append(text))
    outcomes = set()

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(coco_with_faults())
    def check(data: dict[str, Any]) -> None:
        file.write_text(json.dumps(data))
        expected = plainly_parsed(copy.deepcopy(data))
        warnings.clear()
        try:
            found = boxes(build(file, masks=False))
        except UserError as error:
            assert str(error).startswith(f'{file}: ') and '\n' not in str(error)
            found = None
        if expected is None:
            assert found is None
        else:
            assert found == expected[0]
            assert sum(int(text.split(': ')[1].split()[0]) for text in warnings) == expected[1]
        outcomes.add('error' if expected is None else 'skipped' if expected[1] else 'read')

    check()
    assert outcomes == {'error', 'skipped', 'read'}


def test_masks_that_pycocotools_compresses_are_read():
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 70, 2)) < rng.random() for _ in range(100)]
    masks += [np.kron(one, np.ones((9, 9))) for one in masks[:50]]
    masks += [np.ones((300, 300)), np.zeros((300, 300))]
    for one in masks:
        counts = rle.encode(np.asfortranarray(one, np.uint8))['counts'].decode()
        data = content()
        data['images'][1].update(height=one.shape[0], width=one.shape[1])
        data['annotations'][1]['segmentation'] = dict(size=list(one.shape), counts=counts)
        check_coco('', data, masks=True)
        data['images'][1]['height'] = data['annotations'][1]['segmentation']['size'][0] = one.shape[0] + 1
        with pytest.raises(UserError, match=MASK):
            check_coco('', data, masks=True)


def test_real_annotations_are_read_as_mmdet_reads_them(real_data, warnings):
    for split in ('train', 'val'):
        file = real_data / f'coco/annotations/instances_{split}2017.json'
        options = dict(metainfo=None, test_mode=split == 'val')
        ours, theirs = build(file, **options), build(file, 'CocoDataset', **options)
        assert [ours.get_data_info(i) for i in range(len(ours))] == [
            theirs.get_data_info(i) for i in range(len(theirs))
        ]
        check_coco('', read_coco(file), masks=True, evaluated=True)


def test_the_metric_must_read_the_file_of_the_data_set(tmp_path):
    dataset = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='val.json')
    cfg = Config(
        dict(val_dataloader=dict(dataset=dataset), val_evaluator=dict(ann_file=f'{tmp_path}/./val.json'))
    )
    check_evaluators(cfg, 'val')
    cfg.val_evaluator = [dict(type='DumpResults'), dict(ann_file=f'{tmp_path}/test.json')]
    with pytest.raises(
        UserError, match=r'val_evaluator.ann_file: .*test\.json, but .* reads .*val\.json; set'
    ):
        check_evaluators(cfg, 'val')
