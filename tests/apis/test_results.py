"""Results and the files that they are written to."""

import csv
import json
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmiformer.apis.results import CocoJson, Film, Masks, Pictures, Result, Table, own_path
from mmiformer.utils.errors import UserError

IMAGE = np.zeros((10, 12, 3), np.uint8)
CLASSES = ('cat', 'dog ', 'tree')


@pytest.fixture
def objects() -> Result:
    masks = np.zeros((2, 10, 12), bool)
    masks[0, 2:5, 3:9] = masks[1, 4:8, 3:9] = True
    boxes = np.array([[3, 2, 9, 5], [3, 4, 9, 8]], np.float32)
    scores = np.array([0.9, 0.25], np.float32)
    return Result('x/7.jpg', None, IMAGE, 'det', CLASSES, boxes, np.array([1, 0]), scores, masks)


@pytest.fixture
def regions() -> Result:
    label_map = np.zeros((10, 12), np.int64)
    label_map[:, 9:] = 2
    return Result('clip.mp4', 4, IMAGE, 'seg', CLASSES, label_map=label_map)


@pytest.fixture
def shares() -> Result:
    probabilities = np.array([0.2, 0.7, 0.1], np.float32)
    return Result('a.png', None, IMAGE, 'cls', CLASSES, probabilities=probabilities)


def test_classes_found(objects, regions, shares):
    assert (objects.found(), regions.found(), shares.found()) == (['dog', 'cat'], ['cat', 'tree'], ['dog'])


def test_coco_json_can_be_decoded(objects, regions, shares, tmp_path):
    coco = pytest.importorskip('pycocotools.mask')
    with CocoJson(tmp_path / 'new' / 'p.json') as writer:
        for result, name in ((objects, '7.jpg'), (regions, 'clip.mp4'), (shares, 'a.png')):
            writer.add(result, name)
    rows = json.loads((tmp_path / 'new' / 'p.json').read_text())
    first, region = rows[0], rows[3]
    assert (first['image_id'], first['category_id'], first['bbox']) == (7, 1, [3, 2, 6, 3])
    assert first['score'] == pytest.approx(0.9) and first['category_name'] == 'dog'
    assert (coco.decode(first['segmentation']) == objects.masks[0]).all()
    assert (region['image_id'], region['file_name'], 'score' in region) == (4, 'clip.mp4', False)
    assert (coco.decode(region['segmentation']) == (regions.label_map == 2)).all()
    assert [row['category_id'] for row in rows[4:]] == [1, 0, 2] and rows[4]['image_id'] == 'a.png'


def test_json_is_complete_without_results_and_after_an_error(objects, tmp_path):
    with CocoJson(tmp_path / 'none.json'):
        pass
    with pytest.raises(KeyboardInterrupt), CocoJson(tmp_path / 'some.json') as writer:
        writer.add(objects, '7.jpg')
        raise KeyboardInterrupt
    assert [len(json.loads((tmp_path / f'{n}.json').read_text())) for n in ('none', 'some')] == [0, 2]


def test_table(objects, regions, tmp_path):
    with Table(tmp_path / 'p.csv') as writer:
        writer.add(objects, '7.jpg')
        writer.add(regions, 'clip.mp4')
    with (tmp_path / 'p.csv').open(newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert [row['name'] for row in rows] == ['dog', 'cat', 'cat', 'tree']
    assert (rows[0]['image'], rows[0]['frame'], rows[0]['score']) == ('7.jpg', '', '0.900000')
    assert [float(rows[1][key]) for key in ('x1', 'y1', 'x2', 'y2')] == [3, 4, 9, 8]
    assert (rows[3]['frame'], float(rows[3]['share']), rows[3]['x1']) == ('4', 0.25, '')


def test_masks(objects, regions, shares, tmp_path):
    writer = Masks(tmp_path)
    writer.add(objects, '7.jpg')
    writer.add(regions, 'clip.mp4')
    numbers = cv2.imread(str(tmp_path / '7.jpg.png'), cv2.IMREAD_UNCHANGED)
    assert numbers.dtype == np.uint16 and (numbers[objects.masks[0]] == 1).all() and numbers[7, 5] == 2
    labels = cv2.imread(str(tmp_path / 'clip.mp4' / '000004.png'), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint8 and (labels == regions.label_map).all()
    with pytest.raises(UserError, match='--save masks: this model predicts no masks'):
        writer.add(shares, 'a.png')


def test_what_is_read_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('a.png').write_text('original')
    with pytest.raises(UserError, match='a.png: is what was predicted on, and is not overwritten'):
        own_path(tmp_path / 'a.png', 'a.png')
    assert own_path(tmp_path / 'new' / 'a.png', 'a.png').parent.is_dir()


def test_pictures_have_the_names_of_the_images(objects, tmp_path):
    drawn = []
    painter = types.SimpleNamespace(save=lambda image, sample, file: drawn.append((file, sample)))
    pytest.importorskip('mmdet')
    for out, name in ((tmp_path, 'x/7.JPG'), (tmp_path, '7.webp'), (tmp_path / 'one.png', '7.JPG')):
        Pictures(painter, out).add(objects, name)
    names = [str(file.relative_to(tmp_path)) for file, _ in drawn]
    assert names == ['x/7.JPG', '7.webp.png', 'one.png']
    assert drawn[0][1].pred_instances.labels.tolist() == [1, 0]


def test_film_of_a_camera_is_as_long_as_what_it_shows(objects, tmp_path, monkeypatch):
    pytest.importorskip('mmdet')
    painter = types.SimpleNamespace(draw=lambda image, sample: image)
    for live, frames in ((True, 6), (False, 3)):
        clock = iter([5.0, 5.0, 5.35, 5.5])  # Its start, and each frame.
        monkeypatch.setattr('mmiformer.apis.results.time.monotonic', lambda clock=clock: next(clock))
        with Film(painter, tmp_path / f'{live}.mp4', rate=10, live=live) as film:
            for _ in range(3):
                film.add(objects, '0')
        written = cv2.VideoCapture(str(tmp_path / f'{live}.mp4'))
        assert written.get(cv2.CAP_PROP_FRAME_COUNT) == frames


def test_supervision(objects, regions, shares, monkeypatch):
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(UserError, match='supervision: is not installed; pip install supervision'):
        objects.to_supervision()
    kinds = dict(Detections=lambda **given: given, Classifications=lambda **given: given)
    monkeypatch.setitem(sys.modules, 'supervision', types.SimpleNamespace(**kinds))
    found = objects.to_supervision()
    assert (found['xyxy'] == objects.boxes).all() and list(found['data']['class_name']) == ['dog', 'cat']
    found = regions.to_supervision()
    assert found['xyxy'].tolist() == [[0, 0, 9, 10], [9, 0, 12, 10]] and found['class_id'].tolist() == [0, 2]
    assert shares.to_supervision()['confidence'][1] == pytest.approx(0.7)
