import argparse
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch.utils.data import DataLoader, Dataset

from mmiformer.apis.cli import _check_packages, load_config, prepare, run
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write


@pytest.mark.parametrize(
    ('missing', 'config', 'said'),
    [
        ('mmpretrain', 'detection/maskrcnn_repvit_m1_1_coco', 'TIMMFeatures needs mmpretrain'),
        ('mmdet', 'segmentation/fpn_swin_t_ade20k', 'SwinTransformer needs mmdet'),
    ],
)
def test_a_missing_package_is_named(root, monkeypatch, missing, config, said):
    cfg = load_config(str(root / f'configs/{config}.py'))
    _check_packages(cfg)
    timm_features = 'mmiformer.models.backbones.timm_features'
    for name in [n for n in sys.modules if n.startswith((timm_features, missing))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # Makes the import fail.
    with pytest.raises(UserError, match=f'model.backbone.type: {said}'):
        _check_packages(cfg)


def test_types_without_a_module_are_not_imported(root):
    _check_packages(Config(dict(model=dict(type='MaskRCNN', backbone=dict(type='IFormer')))))


def test_a_part_of_a_config_is_an_error(root, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    file = root / 'configs/_base_/default_runtime.py'
    args = argparse.Namespace(config=file, cfg_options={}, demo=False, launcher='none', local_rank=0)
    with pytest.raises(UserError, match=r'default_runtime\.py: has no model; name a complete config'):
        prepare(args, ('train', 'val'))


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no device that is always full')
def test_a_full_disk_is_one_line_and_a_missing_file_a_traceback(tmp_path, capsys):
    def write() -> None:
        with open('/dev/full', 'w') as file:
            file.write('x')

    with pytest.raises(SystemExit) as stop:
        run(write)
    assert stop.value.code == 1
    assert 'cannot be written or read (No space left on device); free space' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(lambda: atomic_write(tmp_path, 'x'))
    assert f'{tmp_path}: cannot be written or read (Is a directory)' in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        run(lambda: os.listdir('/nowhere'))


def allocate_on_a_gpu() -> None:
    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.')


@pytest.mark.parametrize(
    ('allocate', 'reason'),
    [
        (lambda: torch.empty(10**15), "alloc_cpu.cpp.* can't allocate memory"),
        (lambda: np.empty(10**15), 'Unable to allocate'),
        (allocate_on_a_gpu, 'CUDA out of memory. Tried to allocate 2.00 GiB'),
    ],
    ids=['torch', 'numpy', 'GPU'],
)
def test_a_lack_of_memory_is_one_line_with_a_remedy(allocate, reason, capsys):
    with pytest.raises(SystemExit):
        run(allocate, 'set with_cp=True')
    assert re.fullmatch(
        f'error: out of memory \\(.*{reason}.*\\): set with_cp=True.\n', capsys.readouterr().err
    )


def test_errors_are_one_line_even_from_workers_and_with_line_breaks(capsys):
    def fail() -> None:
        raise UserError('two\nlines.jpg: truncated.')

    class Failing(Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> None:
            fail()

    def fail_in_a_worker() -> None:
        list(DataLoader(Failing(), num_workers=1))

    for main in (fail, fail_in_a_worker):
        with pytest.raises(SystemExit):
            run(main)
        assert capsys.readouterr().err == 'error: two lines.jpg: truncated.\n'
