import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mmiformer.zoo import comparing
from mmiformer.zoo.comparing import Row


def row(measured: float | None, comparable: bool = True, released: bool = True) -> Row:
    figures = {} if measured is None else dict(top1=measured)
    status = 'missing' if measured is None else 'measured'
    return Row('x_in1k', 'X', dict(top1=80.4), status, figures, comparable, released)


# The tolerance on ImageNet is 0.1 for a released file and 0.3 for an own run.
@pytest.mark.parametrize(
    ('measured', 'options', 'within'),
    [
        (80.4, {}, True),
        (80.5, {}, True),  # 0.09999999999999432 apart.
        (80.3, {}, True),
        (80.51, {}, False),
        (80.6, {}, False),
        (80.6, dict(released=False), True),
        (80.75, dict(released=False), False),
        (80.4, dict(comparable=False), None),
        (None, {}, None),
    ],
)
def test_within_tolerance(measured, options, within):
    assert row(measured, **options).compare('top1')['within'] is within


ROWS = [
    Row(
        'maskrcnn_iformer_m_coco',
        'iFormer-M',
        dict(box_ap=40.8, box_ap50=62.5, mask_ap=37.9),
        'measured',
        dict(box_ap=40.62, box_ap50=62.5, mask_ap=37.1),
        comparable=True,
        released=True,
        details=dict(file='iFormer_m_epoch_12.pth', sha256='0123456789abcdef', images=5000, seconds=812),
    ),
    Row(
        'maskrcnn_iformer_l_coco',
        'iFormer-L',
        dict(box_ap=42.2, mask_ap=39.1),
        'failed',
        remarks=['cut off.'],
    ),
    Row('upernet_iformer_m_ade20k', 'iFormer-M (UPerNet)', {}, 'measured', dict(miou=43.0), comparable=True),
    Row('EfficientMod-S', 'EfficientMod-S', dict(miou=43.5), 'published'),
    Row('upernet_iformer_t_ade20k', 'iFormer-T (UPerNet)', {}, 'missing', remarks=['not found.']),
]


def test_table_has_every_row_with_its_remarks():
    page = comparing.markdown(ROWS)
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in page.splitlines()]
    cells = [line for line in lines if len(line) == 11]
    assert all(len(line) == 11 for line in cells)
    assert cells[2] == [
        *('`maskrcnn_iformer_m_coco`', 'iFormer-M', 'box AP', '40.8', '40.62', '-0.18', '0.3', 'yes'),
        *('5000', '812', 'iFormer_m_epoch_12.pth (01234567)'),
    ]
    assert cells[4][:8] == [*cells[2][:2], 'mask AP', '37.9', '37.10', '-0.80', '0.3', '**no**']
    assert cells[5][2:8] == ['box AP', '42.2', 'failed', '-', '-', '-']
    assert cells[7][2:8] == ['mIoU', 'not published', '43.00', '-', '-', '-']
    assert cells[8][2:5] == ['mIoU', '43.5', 'published']
    assert cells[9][2:5] == ['-', 'not published', 'missing'] and cells[9][10] == 'missing'
    assert '- `maskrcnn_iformer_l_coco`: cut off.' in page


def test_files_have_the_same_content(tmp_path):
    page, data, picture = comparing.write(ROWS, tmp_path, 'python x.py --out $a$', 'today')
    assert page.read_text() == comparing.markdown(ROWS) + '\n\n`python x.py --out $a$`\n\ntoday\n'
    content = json.loads(data.read_text())
    assert (content['command'], content['environment']) == ('python x.py --out $a$', 'today')
    records = {record['name']: record for record in content['rows']}
    assert list(records) == [r.name for r in ROWS]
    first = records['maskrcnn_iformer_m_coco']
    assert first['measured']['box_ap'] == 40.62 and first['details']['seconds'] == 812
    assert first['comparison']['mask_ap'] == dict(difference=pytest.approx(-0.8), tolerance=0.3, within=False)
    assert records['EfficientMod-S']['comparison']['miou']['within'] is None
    assert cv2.imread(str(picture)).std() > 5


def test_rows_of_earlier_commands_stay_in_the_table(tmp_path):
    comparing.write(ROWS[:3], tmp_path, 'first', '')
    changed = replace(ROWS[1], status='measured', measured=dict(box_ap=42.0), remarks=[])
    boxes = replace(ROWS[3], published=dict(box_ap=42.1))  # The row of the same name in the other task.
    page, *_ = comparing.write([changed, ROWS[3], boxes], tmp_path, 'second $x$', 'a $b$ c')
    assert page.read_text().startswith(comparing.markdown([ROWS[0], changed, ROWS[2], ROWS[3], boxes]))


def test_no_picture_without_figures(tmp_path):
    assert [f.name for f in comparing.write(ROWS[-1:], tmp_path, '', '')] == ['table.md', 'table.json']


def test_picture_shows_each_row_once_per_metric(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(comparing.Figure, 'savefig', lambda figure, out: figures.append(figure))
    comparing.plot(ROWS, tmp_path / 'x.png')
    monkeypatch.undo()
    (figure,) = figures
    labels = [[tick.get_text() for tick in ax.get_yticklabels()] for ax in figure.axes]
    assert labels == [
        ['iFormer-M', 'iFormer-L (failed)'],
        ['iFormer-M', 'iFormer-L (failed)'],
        ['iFormer-M (UPerNet)', 'EfficientMod-S'],
    ]
    published, comparable, other = (line.get_xdata() for line in figure.axes[0].lines)
    assert list(published) == [40.8, 42.2] and comparable[0] == 40.62
    assert np.isnan([comparable[1], *other]).all()
