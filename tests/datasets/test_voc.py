from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmiformer.errors import UserError

OBJECT = (
    '<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>'
    '<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>'
)


def write(root: Path, stem: str, *objects: tuple[str, tuple[int, int, int, int]]) -> None:
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
def told(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr('mmiformer.datasets.coco.print_log', lambda text, **_: lines.append(text))
    return lines


def test_boxes_that_cannot_be_learnt_are_skipped_and_named(data, told):
    dataset = DATASETS.build(data)
    boxes = [[(i['bbox'], i['bbox_label']) for i in dataset.get_data_info(n)['instances']] for n in range(2)]
    assert boxes == [[([0, 0, 20, 10], 0)], [([9, 9, 39, 39], 1)]]
    assert len(told) == 2
    assert '1 boxes without area (below 1 pixel) are skipped, in a.xml.' in told[0]
    assert '1 boxes whose name is none of the classes are skipped, in a.xml.' in told[1]


def test_faults_are_named(data, told, tmp_path):
    with pytest.raises(UserError, match='none of its 2 images has a box of the classes cat'):
        DATASETS.build(dict(data, metainfo=dict(classes=('cat',))))
    (tmp_path / 'Annotations' / 'b.xml').write_text(
        '<annotation><object><name>RBC</name></object></annotation>'
    )
    with pytest.raises(UserError, match=r'b\.xml: not a Pascal VOC annotation'):
        DATASETS.build(data)
    (tmp_path / 'Annotations' / 'b.xml').write_text('<annotation>')
    with pytest.raises(UserError, match=r'b\.xml: not a Pascal VOC annotation'):
        DATASETS.build(data)
    (tmp_path / 'Annotations' / 'b.xml').unlink()
    with pytest.raises(UserError, match=r'b\.xml: cannot be read .*list\.txt lists its image'):
        DATASETS.build(data)


def test_the_two_degenerate_boxes_of_real_blood_cells(real_data, told, data):
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
    assert [line.split()[-1] for line in told] == ['BloodImage_00343.xml.', 'BloodImage_00338.xml.']
