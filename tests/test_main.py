import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CONFIG

mmdet = pytest.importorskip('mmdet')

TOOLS = Path(mmdet.__file__).parent / '.mim/tools'
SMALL = (
    'train_dataloader.dataset.indices=4',
    'val_dataloader.dataset.indices=2',
    'test_dataloader.dataset.indices=2',
    'train_dataloader.dataset.pipeline.2.scale=(96,96)',
    'val_dataloader.dataset.pipeline.1.scale=(96,96)',
    'test_dataloader.dataset.pipeline.1.scale=(96,96)',
    'model.train_cfg.rcnn.sampler.num=16',
    'model.test_cfg.rcnn.score_thr=0',
    'model.backbone.init_cfg=None',
    'train_cfg.max_epochs=1',
    *(
        f'{split}_dataloader.{o}'
        for split in ('train', 'val', 'test')
        for o in ('num_workers=0', 'persistent_workers=False')
    ),
)


def run(*command, cwd) -> str:
    result = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def test_mmdets_own_scripts_train_and_test_our_config(root, tmp_path, real_data, monkeypatch):
    monkeypatch.setenv('MMIFORMER_DATA', str(real_data))
    options = ('--work-dir', 'out', '--cfg-options', *SMALL)
    # It imports models after the config has imported mmiformer; test.py imports some before.
    run(TOOLS / 'train.py', root / CONFIG, *options, cwd=tmp_path)
    out = run('-m', 'mmiformer', TOOLS / 'test.py', root / CONFIG, 'out/epoch_1.pth', *options, cwd=tmp_path)
    assert 'coco/bbox_mAP' in out and 'coco/segm_mAP' in out


def test_without_a_script_it_says_how_it_is_used():
    result = subprocess.run([sys.executable, '-m', 'mmiformer', 'none.py'], capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.endswith('where SCRIPT is a Python file\n')
