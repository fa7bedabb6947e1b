"""RTMDet-Ins through the command lines, on the embedded miniature data."""

import json
import shutil
from pathlib import Path

import cv2
import torch
from helpers import SHORT, same

# A threshold of 0, since an untrained head's scores are low.
OPTIONS = (
    *(o for o in SHORT if not o.startswith(('model.', 'train_cfg.', 'default_hooks.checkpoint'))),
    'train_cfg.max_iters=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2',
    'train_dataloader.dataset.pipeline.3.crop_size=(96,96)',
    'train_dataloader.dataset.pipeline.7.size=(96,96)',
    'val_dataloader.dataset.pipeline.2.size=(96,96)',
    'model.test_cfg.score_thr=0',
    'model.test_cfg.max_per_img=5',
)


def test_demo_trains_evaluates_and_resumes_exactly(run_tool, root, workplace):
    config, run, resumed = root / 'configs/detection/rtmdetins_iformer_t_coco.py', Path('ins'), Path('again')
    arguments = ['train', config, '--demo', '--cfg-options', *OPTIONS, '--work-dir']
    code, _, err = run_tool(*arguments, run)
    assert code == 0, err[-3000:]
    assert cv2.imread(str(run / 'predictions.png')).std() > 5
    scalars = [
        json.loads(line) for line in next(run.glob('*/vis_data/scalars.json')).read_text().splitlines()
    ]
    assert {'coco/bbox_mAP_50', 'coco/segm_mAP_50'} <= scalars[-1].keys() and 'loss_mask' in scalars[0]

    resumed.mkdir()
    shutil.copy(run / 'iter_2.pth', resumed)
    code, _, err = run_tool(*arguments, resumed, '--resume')
    assert code == 0, err[-3000:]
    expected, found = (torch.load(one / 'iter_4.pth', weights_only=False) for one in (run, resumed))
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert same(found[key], expected[key]), key
    assert not same(
        expected['ema_state_dict']['module.neck.out_convs.0.conv.weight'],
        expected['state_dict']['neck.out_convs.0.conv.weight'],
    )
