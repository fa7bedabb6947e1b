"""The published tables, measured through the command line from intact, broken and foreign files."""

import json
import sys
from pathlib import Path

import golden
import pytest
import torch

import mmiformer
from mmiformer.datasets.toy.ade import TOY_DATA
from mmiformer.utils.errors import UserError
from mmiformer.zoo import reproducing

SMALL = (
    'test_dataloader.dataset.pipeline.1.scale=(96,96)',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
)
SHORT = (
    *SMALL,
    'model.backbone.init_cfg=None',
    'model.backbone.norm_eval=False',
    'train_cfg.max_iters=1',
    'train_cfg.val_interval=9',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.dataset.pipeline.2.scale=(96,96)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'val_dataloader.dataset.indices=2',
    'model.data_preprocessor.size=(64,64)',
)


def official_segmentor(arch: str, file: Path) -> None:
    """Saves weights as the authors do: their names for the backbone, mmseg's for neck and head."""
    model = mmiformer.get_model(f'fpn_iformer_{arch}_ade20k').state_dict()
    weights = {f'backbone.{k}': v for k, v in golden.state_dict(f'det_{arch}').items()}
    weights |= {
        k: golden.made_up(k, list(v.shape)) for k, v in model.items() if not k.startswith('backbone.')
    }
    torch.save(dict(state_dict=weights, meta=dict(iter=40000)), file)


@pytest.fixture
def data(tmp_path) -> Path:
    """Data in ADE20K's layout."""
    TOY_DATA.make(tmp_path / 'data/ade/ADEChallengeData2016', num_train=4, num_val=3)
    return tmp_path / 'data'


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder of files with official names: one intact, one truncated, one of another arch."""
    files = tmp_path / 'files'
    files.mkdir()
    official_segmentor('m', files / 'iFormer_m_iter_40000.pth')
    data = (files / 'iFormer_m_iter_40000.pth').read_bytes()
    (files / 'iFormer_l_iter_40000.pth').write_bytes(data[: len(data) // 2])
    (files / 'iFormer_l2_iter_40000.pth').write_bytes(data)
    return tmp_path


def table(folder: Path) -> dict[str, dict]:
    return {row['name']: row for row in json.loads((folder / 'table.json').read_text())['rows']}


@pytest.fixture
def in_this_process(run_tool, monkeypatch) -> None:
    """Runs evaluations in this process; a new one imports for some seconds."""

    def run(command: list[str], log: Path, progress: object) -> None:
        python, _, tool, *arguments = command
        assert python == sys.executable
        code, out, err = run_tool(Path(tool).stem, *arguments)
        log.write_text(out + err)
        if code:
            raise UserError(log, err.splitlines()[-1])

    monkeypatch.setattr(reproducing, 'run_tool', run)


def test_table_is_measured_row_by_row_and_resumed(run_tool, place, data, in_this_process):
    out = place / 'out'
    arguments = ['--task', 'seg', '--checkpoints', place / 'files', '--data', data, '--out', out]
    options = ['--limit', 2, '--cfg-options', *SMALL]
    code, _, err = run_tool('reproduce', *arguments, *options)
    assert code == 1 and 'fpn_iformer_l_ade20k, fpn_iformer_l2_ade20k' in err and 'Traceback' not in err
    rows = table(out)
    assert len(rows) == 18, 'every row of the paper with a figure for ADE20K'
    intact = rows['fpn_iformer_m_ade20k']
    assert (intact['status'], intact['comparable'], intact['released']) == ('measured', False, True)
    assert 0 <= intact['measured']['miou'] < 100 and intact['published'] == dict(miou=42.4)
    assert intact['details']['images'] == 2 and 'torch' in intact['details']['machine']['versions']
    assert any('2 of 2,000 images' in remark for remark in intact['remarks'])
    assert 'truncated' in rows['fpn_iformer_l_ade20k']['remarks'][-1]
    assert "arch='l2'" in rows['fpn_iformer_l2_ade20k']['remarks'][-1]
    assert rows['fpn_swin_t_ade20k']['status'] == 'missing'
    assert rows['EfficientMod-S']['status'] == 'published'
    assert 'mIoU | 42.4' in (out / 'table.md').read_text() and (out / 'table.png').stat().st_size > 10_000
    # Measured rows are kept; failed rows and rows with another file are measured again.
    before = (out / 'rows/fpn_iformer_m_ade20k/log.txt').stat().st_mtime_ns
    again = ['--rows', 'fpn_iformer_m_ade20k', 'fpn_iformer_l2_ade20k']
    official_segmentor('l2', place / 'files/iFormer_l2_iter_40000.pth')
    code, _, err = run_tool('reproduce', *arguments, *again, *options)
    assert code == 0, err[-2000:]
    rows = table(out)
    assert rows['fpn_iformer_m_ade20k']['measured'] == intact['measured']
    assert (out / 'rows/fpn_iformer_m_ade20k/log.txt').stat().st_mtime_ns == before
    assert rows['fpn_iformer_l2_ade20k']['status'] == 'measured'


def test_a_row_is_trained_and_evaluated(run_tool, tmp_path, data):
    out = tmp_path / 'out'
    arguments = ['--task', 'seg', '--rows', 'fpn_iformer_t_*', '--train']
    code, _, err = run_tool('reproduce', *arguments, '--data', data, '--out', out, '--cfg-options', *SHORT)
    assert code == 0, err[-2000:]
    row = table(out)['fpn_iformer_t_ade20k']
    assert (row['status'], row['released'], row['published']) == ('measured', False, {})
    assert row['details']['file'] == 'iter_1.pth' and row['details']['images'] == 3


def test_dry_run_of_an_evaluation(run_tool, place):
    arguments = ['--task', 'seg', '--rows', 'fpn_iformer_[mst]_*', '--checkpoints', place / 'files']
    code, out, err = run_tool('reproduce', *arguments, '--dry-run', '--out', place / 'out')
    assert code == 0 and not (place / 'out').exists(), err[-2000:]
    assert 'iFormer_m_iter_40000.pth' in out and 'missing' in out and 'hours of one V100' in out
    assert 'tools/test.py' in out and 'fpn_iformer_s_ade20k.pth: not found' in out


def test_dry_run_of_all_trainings(run_tool, tmp_path):
    code, out, err = run_tool('reproduce', '--task', 'seg', '--train', '--dry-run', '--out', tmp_path / 'out')
    assert code == 0, err[-2000:]
    rows = [line.split() for line in out.splitlines() if line.strip().startswith('fpn_')]
    assert len(rows) == 17 and all(row[-3] == 'trained' and float(row[-2]) > 1 for row in rows)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--checkpoints', 'nowhere'], 'nowhere: no such folder'),
        (['--checkpoints', '.', '--rows', 'none'], '--rows none: matches no config'),
        (['--rows', 'fpn_*'], 'or add --train'),
    ],
)
def test_wrong_arguments(run_tool, workplace, arguments, sentence):
    code, _, err = run_tool('reproduce', *arguments)
    assert code == 1 and sentence in err and 'Traceback' not in err
