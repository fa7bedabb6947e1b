"""Annotations in COCO's format with every fault: what was meant, a skip that is told, or a named error."""

import copy
import json
import math
import os
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

from mmiformer.datasets.annotations import NO_AREA, NO_CATEGORY, NO_POLYGON, check_coco, is_whole, read_coco
from mmiformer.datasets.checks import check_evaluators
from mmiformer.utils.errors import UserError

CLASSES = ('kite', 'clock')
NAN, INF = math.nan, math.inf
TRIANGLE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]


def content() -> dict[str, Any]:
    """Two images and two boxes with masks, without fault."""
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
def told(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr('mmiformer.datasets.coco.print_log', lambda text, **_: lines.append(text))
    return lines


def build(
    file: Path, kind: str = 'mmiformer.datasets.coco.CheckedCocoDataset', **options: Any
) -> CocoDataset:
    init_default_scope('mmdet')
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=options.pop('masks', True))
    settings = dict(data_prefix=dict(img='images'), metainfo=dict(classes=CLASSES), pipeline=[load])
    settings['serialize_data'] = False  # It collects garbage, which takes long beside a test's other work.
    return DATASETS.build(dict(type=kind, ann_file=str(file), **{**settings, **options}))


def boxes(dataset: CocoDataset) -> list[list[tuple[list[float], int]]]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [[(one['bbox'], one['bbox_label']) for one in info['instances']] for info in infos]


def annotation(**changes: Any):
    """Changes the second annotation; None takes a key away."""

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


FIVE = 'annotation 5 of b.jpg has '
# Of a dataset for training with masks.
FAULTS = {
    'a NaN in a box': (annotation(bbox=[1, NAN, 8, 8]), FIVE + r'bbox \[1, nan, 8, 8\].*expected x, y'),
    'an infinite box': (annotation(bbox=[1, 1, INF, 8]), FIVE + 'bbox'),
    'a number above all': (annotation(bbox=[1, 1, 10**400, 8.5]), FIVE + 'bbox'),
    'a far box': (annotation(bbox=[-(10**6), 1, 8, 8]), FIVE + 'bbox'),
    'a null in a box': (annotation(bbox=[1, None, 8, 8]), FIVE + 'bbox'),
    'no box': (annotation(bbox=None), FIVE + 'bbox None'),
    'a box of three': (annotation(bbox=[1, 1, 8]), FIVE + r'bbox \[1, 1, 8\]'),
    'a box of five': (annotation(bbox=[1, 1, 8, 8, 8]), FIVE + 'bbox'),
    'a box of texts': (annotation(bbox=['1', '1', '8', '8']), FIVE + 'bbox'),
    'a text for a box': (annotation(bbox='1188'), FIVE + 'bbox 1188'),
    'a NaN for an area': (annotation(area=NAN), FIVE + '.*area nan'),
    'a text for an area': (annotation(area='81'), FIVE + '.*area 81'),
    'a text for a crowd': (annotation(iscrowd='0'), FIVE + '.*iscrowd 0'),
    'a list for a category': (annotation(category_id=[7]), FIVE),
    'a text for an id': (annotation(id='5'), FIVE + '.*whole numbers as ids'),
    **{
        f'without {key}': (annotation(**{key: ...}), rf'annotation (5|None) of image (2|None) lacks {key};')
        for key in ('id', 'image_id', 'category_id', 'bbox', 'area')
    },
    'an unknown image': (annotation(image_id=9), 'annotation 5 is of image 9, which the file does not list'),
    'a list for an image': (annotation(image_id=[2]), r'annotation 5 is of image \[2\], which'),
    'one annotation id twice': (annotation(id=4), 'has the annotation id 4 2 times'),
    'no object': (lambda c: c['annotations'].append([1]), r'has \[1\] among its annotations'),
    # Images
    'one image id twice': (image(id=1), 'has the image id 1 2 times'),
    'a NaN for an image id': (image(id=NAN), "has the image .*'id': nan.*; expected an id"),
    'no file_name': (
        image(file_name=None),
        "has the image .*'file_name': None.*; expected an id, a file_name",
    ),
    'a negative width': (image(width=-30), "has the image .*'width': -30"),
    'no height': (image(height=0), 'has the image'),
    'an absurd height': (image(height=10**9), 'has the image'),
    'a text for a width': (image(width='30'), 'has the image'),
    'an image that is none': (lambda c: c['images'].append(3), 'has the image 3; expected'),
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
    'no mask': (mask(...), FIVE + 'the segmentation None, expected polygons'),
    'an empty mask': (mask([]), FIVE + r'the segmentation \[\], expected polygons'),
    'a text for a mask': (mask('x'), FIVE + 'the segmentation x'),
    'a NaN in a polygon': (mask([[1, NAN, 9, 1, 9, 9]]), FIVE + r'a mask with the polygon \[1, nan'),
    'an infinite polygon': (mask([[1, INF, 9, 1, 9, 9]]), FIVE + 'a mask with the polygon'),
    'a far polygon': (mask([[1, 10**9, 9, 1, 9, 9]]), FIVE + 'a mask with the polygon'),
    'a polygon above all': (mask([[1, 10**400, 9, 1.5, 9, 9]]), FIVE + 'a mask with the polygon'),
    'an endless outline': (mask([[0, 9e5, 9e5, 0] * 20]), FIVE + 'a mask with the polygon'),
    'a polygon of texts': (mask([['1', '1', '9', '1', '9', '9']]), FIVE + 'a mask with the polygon'),
    'numbers for polygons': (mask([1, 1, 9, 1, 9, 9]), FIVE + 'a mask with the polygon 1,'),
    'an odd polygon': (mask([[1, 1, 9, 1, 9, 9, 5]]), FIVE + 'a mask with a polygon of 7 numbers'),
    'run lengths of another size': (
        runs([0, 600], (30, 20)),
        FIVE + r'a mask of size \[30, 20\], .*\[20, 30\]',
    ),
    'run lengths of no size': (mask(dict(counts=[0, 600])), FIVE + 'a mask of size None'),
    'no counts': (runs(None), FIVE + 'the segmentation'),
    'too few pixels': (runs([10, 20]), FIVE + 'a mask whose counts are not the number of pixels'),
    'too many pixels': (runs([10, 20_000]), FIVE + 'a mask whose counts'),
    'negative counts': (runs([605, -5]), FIVE + 'a mask whose counts'),
    'fractions for counts': (runs([10, 20.5, 569.5]), FIVE + 'a mask whose counts'),
    'empty counts': (runs([]), FIVE + 'a mask whose counts'),
    'an empty text': (runs(''), FIVE + 'a mask whose counts'),
    'a text that does not end': (runs('oooo'), FIVE + 'a mask whose counts'),
    'a text of other characters': (runs('\x01\xff hello'), FIVE + 'a mask whose counts'),
    'a text of another mask': (
        runs(rle.encode(np.ones((20, 29), np.uint8, order='F'))['counts'].decode()),
        FIVE + 'a mask whose counts',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_what_would_be_lost_or_misread_is_named(file, told, fault):
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
        (annotation(iscrowd=...), 'annotation 5 of image 2 lacks iscrowd'),
        (annotation(id=0), "an annotation with id 0, which COCO's metric takes for none"),
        (mask([[1, 1, 9, 9], *TRIANGLE]), FIVE + "a mask that begins with less than 3 points, which COCO's"),
        (mask([[]]), FIVE + 'a mask that begins with less than 3 points'),
    ],
)
def test_what_the_metric_dies_of_or_miscounts_is_named_where_it_is_evaluated(file, told, change, words):
    wrong = content()
    change(wrong)
    file.write_text(json.dumps(wrong))
    assert len(boxes(build(file))) == 2
    with pytest.raises(UserError, match=words):
        build(file, test_mode=True)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (b'', 'no JSON'),
        (b'{"images": [', 'no JSON'),
        (b'\xff\xfe\xfd', 'no JSON'),
        (b'[' * 100_000, 'no JSON'),
        (b'[1' + b'0' * 5000 + b']', 'no JSON'),
        (b'[]', 'JSON, but no object with lists'),
        (b'{"images": [], "annotations": []}', 'JSON, but no object with lists'),
        (b'{"images": [], "categories": [], "annotations": null}', 'JSON, but no object with lists'),
    ],
)
def test_other_files_are_named(file, text, words):
    file.write_bytes(text)
    with pytest.raises(UserError, match=words) as error:
        build(file)
    assert str(error.value).startswith(f'{file}: ') and '\n' not in str(error.value)


def test_missing_files_and_pipes_are_named(file):
    with pytest.raises(UserError, match=r'ann\.json: cannot be read \(No such file'):
        build(file)
    os.mkfifo(file)
    with pytest.raises(UserError, match=r'ann\.json: is a folder, a pipe or a device'):
        build(file)


def test_what_is_skipped_is_told_once_with_names(file, told):
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
    ):
        data['annotations'].append({**data['annotations'][1], 'id': 10 + len(data['annotations']), **change})
    file.write_text(json.dumps(data))
    dataset = build(file)
    assert [len(found) for found in boxes(dataset)] == [1, 3]
    assert told == [
        f'{file}: 6 {NO_AREA} are skipped, in b.jpg.',
        f'{file}: 1 {NO_CATEGORY} are skipped, in b.jpg.',
        f'{file}: 3 {NO_POLYGON} are skipped, in b.jpg.',
    ]
    # An object without any polygon is left out of the losses, as mmdet does.
    loaded = dataset.pipeline(dict(dataset.get_data_info(1), ori_shape=(20, 30)))
    assert loaded['gt_ignore_flags'].tolist() == [False, False, True]


def test_boxes_partly_outside_are_kept_and_masks_are_not_asked_of_a_box_detector(file, told):
    data = content()
    data['annotations'][0].update(bbox=[-4, -4, 100, 100], segmentation=[])
    data['annotations'][1].update(segmentation='junk')
    del data['annotations'][1]['iscrowd']
    data['images'][1]['file_name'] = '../elsewhere/b.jpg'
    file.write_text(json.dumps(data))
    dataset = build(file, masks=False)
    assert boxes(dataset) == [[([-4, -4, 96, 96], 0)], [([5, 5, 14, 14], 1)]]
    assert dataset.get_data_info(1)['img_path'] == 'images/../elsewhere/b.jpg'
    assert not told


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
        box, category = one.get('bbox'), one.get('category_id', [])
        if not isinstance(box, list) or len(box) != 4 or not all(number(value, 1e6) for value in box):
            return None
        if sum(abs(value) for value in box) >= 1e6 or not number(one.get('area'), 1e12):
            return None
        if one.get('iscrowd', 0) not in (0, 1) or isinstance(category, list | dict):
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


def test_random_faults_give_the_plain_reading_or_a_named_error(tmp_path_factory, monkeypatch):
    file, told = tmp_path_factory.mktemp('coco') / 'ann.json', []
    monkeypatch.setattr('mmiformer.datasets.coco.print_log', lambda text, **_: told.append(text))
    outcomes = set()

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(coco_with_faults())
    def check(data: dict[str, Any]) -> None:
        file.write_text(json.dumps(data))
        expected = plainly_parsed(copy.deepcopy(data))
        told.clear()
        try:
            found = boxes(build(file, masks=False))
        except UserError as error:
            assert str(error).startswith(f'{file}: ') and '\n' not in str(error)
            found = None
        if expected is None:
            assert found is None
        else:
            assert found == expected[0]
            assert sum(int(text.split(': ')[1].split()[0]) for text in told) == expected[1]
        outcomes.add('error' if expected is None else 'skipped' if expected[1] else 'whole')

    check()
    assert outcomes == {'error', 'skipped', 'whole'}


def slowly_decoded(text: str) -> list[int] | None:
    """Counts of compressed run lengths; None if the last one does not end."""
    counts: list[int] = []
    value = place = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << 5 * place
        place += 1
        if not code & 32:
            value -= (1 << 5 * place) if code & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = place = 0
    return counts if place == 0 else None


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.text(st.characters(codec='ascii', min_codepoint=47, max_codepoint=112)), max_size=5))
def test_compressed_masks_are_whole_as_a_plain_decoder_says(texts):
    for text in texts:
        counts = slowly_decoded(text) if text and '/' not in text and 'p' not in text else None
        if counts is None:
            assert not is_whole(text, 0)
        elif max(map(abs, counts)) < 2**31:
            assert is_whole(text, sum(counts)) == (min(counts) >= 0)
            assert not is_whole(text, sum(counts) + 1)


def test_masks_that_pycocotools_writes_are_whole():
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 70, 2)) < rng.random() for _ in range(200)]
    masks += [np.kron(one, np.ones((9, 9))) for one in masks[:50]] + [
        np.ones((300, 300)),
        np.zeros((300, 300)),
    ]
    texts = [rle.encode(np.asfortranarray(one, np.uint8))['counts'].decode() for one in masks]
    assert all(is_whole(text, one.size) for text, one in zip(texts, masks, strict=True))
    assert not any(is_whole(text, one.size + 1) for text, one in zip(texts, masks, strict=True))


def test_real_annotations_are_read_as_mmdet_reads_them(real_data, told):
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
    check_evaluators(cfg, ('train', 'val'))
    cfg.val_evaluator = [dict(type='DumpResults'), dict(ann_file=f'{tmp_path}/test.json')]
    with pytest.raises(
        UserError, match=r'val_evaluator.ann_file: .*test\.json, but .* reads .*val\.json; set'
    ):
        check_evaluators(cfg, ('train', 'val'))
