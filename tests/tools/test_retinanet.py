import json
from pathlib import Path

import cv2
import pytest
from helpers import SHORT

# An untrained head's scores are all below the threshold.
SHORT = (*(option for option in SHORT if not option.startswith('model.')), 'model.test_cfg.score_thr=0')


def test_demo_trains_evaluates_and_draws(run_tool, root, workplace):
    name = 'retinanet_mocovit_coco'
    code, _, err = run_tool(
        'train',
        root / f'configs/detection/{name}.py',
        '--demo',
        '--work-dir',
        name,
        '--cfg-options',
        *SHORT,
    )
    assert code == 0, err[-3000:]
    assert cv2.imread(f'{name}/predictions.png').std() > 5
    scalars = next(Path(name).glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert any('coco/bbox_mAP_50' in json.loads(line) for line in scalars)


def test_real_blood_cells_train_and_evaluate(run_tool, root, workplace, real_data, monkeypatch):
    if not (real_data / 'bccd').is_dir():
        pytest.skip(f'no bccd in {real_data}')
    monkeypatch.setenv('MMIFORMER_DATA', str(real_data))
    options = [
        *(
            f'{s}_dataloader.{o}'
            for s in ('train', 'val')
            for o in ('num_workers=0', 'persistent_workers=False')
        ),
        *(option for option in SHORT if 'test_dataloader' not in option and 'scale' not in option),
    ]
    code, _, err = run_tool(
        'train',
        root / 'configs/detection/retinanet_mocovit_bccd.py',
        '--work-dir',
        'bccd',
        '--cfg-options',
        *options,
    )
    assert code == 0, err[-3000:]
    assert '"coco/bbox_mAP_50"' in next(Path('bccd').glob('*/vis_data/scalars.json')).read_text()
