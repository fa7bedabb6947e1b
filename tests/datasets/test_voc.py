import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import png_of
from mmengine.registry import DATASETS, init_default_scope
from PIL import ExifTags, Image

from mmiformer.utils.errors import UserError

OBJECT = (
    '<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>'
    '<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>'
)


def write(root: Path, stem: str, *objects: tuple[str, tuple[float, float, float, float]]) -> None:
    inner = ''.join(OBJECT.format(name=name, box=box) for name, box in objects)
    size = '<size><width>60</width><height>40</height><depth>3</depth></size>'
    (root / 'Annotations' / f'{stem}.xml').write_text(f'<annotation>{size}{inner}</annotation>')
    cv2.imwrite(str(root / 'JPEGImages' / f'{stem}.jpg'), np.zeros((40, 60, 3), np.uint8))


@pytest.fixture
def data(tmp_path) -> dict:
    init_default_scope('mmdet')
    for folder in ('Annotations', 'JPEGImages'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'list.txt').write_text('a\nb\n')
    write(tmp_path, 'a', ('RBC', (1, 1, 21, 11)), ('WBC', (5, 5, 5, 30)), ('dust', (1, 1, 9, 9)))
    write(tmp_path, 'b', ('WBC', (10, 10, 40, 40)))
    return dict(
        type='mmiformer.datasets.voc.CheckedXMLDataset',
        data_root=str(tmp_path),
        ann_file='list.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('RBC', 'WBC')),
        pipeline=[],
    )


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr('mmiformer.datasets.coco.print_log', lambda text, **_: lines.append(text))
    return lines


def rewrite(root: Path, stem: str, old: str, new: str) -> None:
    file = root / 'Annotations' / f'{stem}.xml'
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_skipped_boxes_are_logged(data, logged):
    dataset = DATASETS.build(data)
    boxes = [[(i['bbox'], i['bbox_label']) for i in dataset.get_data_info(n)['instances']] for n in range(2)]
    assert boxes == [[([0, 0, 20, 10], 0)], [([9, 9, 39, 39], 1)]]
    assert len(logged) == 2
    assert '1 boxes without area (below 1 pixel, or outside of the image) are skipped, in a.xml.' in logged[0]
    assert '1 boxes whose name is not a class are skipped, in a.xml.' in logged[1]


@pytest.mark.parametrize('box', [(70, 5, 90, 30), (-30, 5, -10, 30), (5, 41, 30, 60), (50, 5, 30, 20)])
def test_boxes_outside_of_the_image_are_skipped(data, logged, tmp_path, box):
    write(tmp_path, 'b', ('WBC', (10, 10, 40, 40)), ('RBC', box))
    assert len(DATASETS.build(data).get_data_info(1)['instances']) == 1
    assert 'in a.xml, b.xml.' in logged[0]


def test_variants_of_other_tools_are_read(data, logged, tmp_path):
    write(tmp_path, 'b', (' WBC ', (10.5, 10, 40, 40.25)))
    rewrite(tmp_path, 'b', '<width>60</width>', '<width>60.0</width>')
    rewrite(tmp_path, 'b', '<difficult>0</difficult>', '<difficult>Unspecified</difficult>')
    (box,) = DATASETS.build(data).get_data_info(1)['instances']
    assert box == dict(bbox=[9.5, 9, 39, 39.25], bbox_label=1, ignore_flag=0)
    rewrite(tmp_path, 'b', 'Unspecified', '1')
    rewrite(tmp_path, 'b', '<width>60.0</width><height>40</height>', '<width>0</width><height>0</height>')
    info = DATASETS.build(data).get_data_info(1)
    assert info['instances'][0]['ignore_flag'] == 1
    assert (info['width'], info['height']) == (60, 40)
    small = DATASETS.build(dict(data, filter_cfg=dict(bbox_min_size=15)))
    assert [i['ignore_flag'] for i in small.get_data_info(0)['instances']] == [1]


def test_an_image_of_another_size_is_named(data, logged, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new('RGB', (40, 60)).save(tmp_path / 'JPEGImages' / 'b.jpg', exif=exif)
    dataset = DATASETS.build(dict(data, pipeline=[dict(type='LoadCheckedImage')]))
    assert dataset[1]['img'].shape == (40, 60, 3)
    Image.new('RGB', (40, 60)).save(tmp_path / 'JPEGImages' / 'b.jpg')
    with pytest.raises(UserError, match=r'b\.jpg: 40x60 pixels .* but its annotations are of 60x40'):
        dataset[1]


LAUGHS = ''.join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
XMLS = {
    'entities of entities': f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]><annotation>&a9;</annotation>',
    'a file as an entity': '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hosts">]><annotation>&x;</annotation>',
    'an unknown encoding': '<?xml version="1.0" encoding="none"?><annotation/>',
    'an odd encoding': '<?xml version="1.0" encoding="utf-7"?><annotation/>',
    'no text': '',
}


@pytest.mark.parametrize('kind', XMLS)
def test_hostile_xml_is_named(data, logged, tmp_path, kind):
    (tmp_path / 'Annotations' / 'b.xml').write_text(XMLS[kind])
    with pytest.raises(UserError, match=r'b\.xml: cannot be used \('):
        DATASETS.build(data)


@pytest.mark.parametrize('number', ['', 'left'])
def test_values_that_are_not_numbers_are_named(data, logged, tmp_path, number):
    rewrite(tmp_path, 'b', '<xmin>10</xmin>', f'<xmin>{number}</xmin>')
    with pytest.raises(UserError, match=rf"b\.xml: cannot be used \(could not convert .*: '{number}'\)"):
        DATASETS.build(data)


def test_a_box_of_nan_is_skipped(data, logged, tmp_path):
    rewrite(tmp_path, 'b', '<xmin>10</xmin>', '<xmin>nan</xmin>')
    assert not DATASETS.build(data).get_data_info(1)['instances']


def test_broken_files_are_named(data, logged, tmp_path):
    def expect(words: str) -> None:
        with pytest.raises(UserError, match=words):
            DATASETS.build(data)

    with pytest.raises(UserError, match='none of its 2 images has a box of cat'):
        DATASETS.build(dict(data, metainfo=dict(classes=('cat',))))
    rewrite(tmp_path, 'b', '<width>60</width>', '')
    (tmp_path / 'JPEGImages' / 'b.jpg').write_bytes(png_of(100_000, 100_000))
    expect(r'b\.xml: cannot be used \(.* exceeds limit')
    (tmp_path / 'JPEGImages' / 'b.jpg').unlink()
    os.mkfifo(tmp_path / 'JPEGImages' / 'b.jpg')
    expect(r'b\.xml: cannot be used \(.*b\.jpg: is a folder, a pipe')
    rewrite(tmp_path, 'b', '<height>40</height>', '<height>inf</height>')
    expect(r'b\.xml: cannot be used \(cannot convert float infinity')
    (tmp_path / 'Annotations' / 'b.xml').write_text('<annotation>')
    expect(r'b\.xml: cannot be used \(no element found')
    (tmp_path / 'Annotations' / 'b.xml').unlink()
    expect(r'b\.xml: cannot be used \(.*No such file.*list\.txt lists it')
    os.mkfifo(tmp_path / 'Annotations' / 'b.xml')
    expect(r'b\.xml: is a folder, a pipe or a device')


def test_the_two_degenerate_boxes_of_real_blood_cells(real_data, logged, data):
    if not (real_data / 'bccd').is_dir():
        pytest.skip(f'no bccd in {real_data}')
    boxes = 0
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(
            dict(
                data,
                data_root=str(real_data / 'bccd'),
                ann_file=f'ImageSets/Main/{split}.txt',
                metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
            )
        )
        boxes += sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset)))
    assert boxes == 4888 - 2
    assert [line.split()[-1] for line in logged] == ['BloodImage_00343.xml.', 'BloodImage_00338.xml.']
