import json
import sys
from pathlib import Path

import pytest

from mmiformer.apis.hub import get_config
from mmiformer.utils.errors import UserError
from mmiformer.zoo import reproducing
from mmiformer.zoo.effort import gpu_hours
from mmiformer.zoo.entries import entries
from mmiformer.zoo.launching import run_tool
from mmiformer.zoo.published import DOWNSTREAM

ENTRY = {entry.name: entry for entry in entries()}


def names(pairs) -> list[str]:
    return [row.name for row, _ in pairs]


def test_rows_are_those_of_the_published_table(tmp_path):
    for task, framework in (('det', 'Mask R-CNN'), ('seg', 'Semantic FPN')):
        rows = reproducing.rows_of([task], [], tmp_path)
        table = [r.title for r in DOWNSTREAM if task == 'det' or r.miou is not None]
        assert sorted(row.title for row, _ in rows) == sorted(table)
        assert [row.title for row, entry in rows if entry is None] == ['EfficientMod-S']
        assert all(entry.framework == framework for _, entry in rows if entry)
    assert len(reproducing.rows_of(['cls'], [], tmp_path)) == 9


def test_unpublished_configs_are_rows_if_named_or_with_a_checkpoint(tmp_path):
    assert 'upernet_iformer_t_ade20k' not in names(reproducing.rows_of(['seg'], [], tmp_path))
    (tmp_path / 'upernet_iformer_t_ade20k.pth').touch()
    assert 'upernet_iformer_t_ade20k' in names(reproducing.rows_of(['seg'], [], tmp_path))
    named = reproducing.rows_of(['det', 'seg'], ['*_iformer_s_*'], tmp_path)
    assert names(named) == [
        'maskrcnn_iformer_s_coco',
        'retinanet_iformer_s_coco',
        'rtmdet_iformer_s_coco',
        'rtmdetins_iformer_s_coco',
        'fpn_iformer_s_ade20k',
        'upernet_iformer_s_ade20k',
        'segformer_iformer_s_ade20k',
    ]
    with pytest.raises(UserError, match='--rows fpn_x: matches no config of the tasks det, seg'):
        reproducing.rows_of(['det', 'seg'], ['fpn_x'], tmp_path)


def test_checkpoints_by_official_names_our_names_and_work_dirs(tmp_path):
    official, own = ENTRY['fpn_iformer_m_ade20k'], ENTRY['fpn_swin_t_ade20k']
    assert reproducing.find_checkpoint(official, tmp_path) is None
    run = tmp_path / 'fpn_swin_t_ade20k'
    run.mkdir()
    (run / 'iter_40000.pth').touch()
    # As mmengine writes it, before the folder was moved.
    (run / 'last_checkpoint').write_text('/elsewhere/fpn_swin_t_ade20k/iter_40000.pth')
    assert reproducing.find_checkpoint(own, tmp_path) == run / 'iter_40000.pth'
    for name in ('fpn_iformer_m_ade20k.safetensors', 'iFormer_m_iter_40000.pth'):  # The latter first.
        (tmp_path / name).touch()
        assert reproducing.find_checkpoint(official, tmp_path).name == name
    missing = reproducing.missing_reason(ENTRY['maskrcnn_iformer_l_coco'], tmp_path)
    assert 'v0.9/iFormer_l_epoch_12.pth' in missing and str(tmp_path) in missing
    assert 'no weights were released' in reproducing.missing_reason(own, tmp_path)


def test_hours_equal_the_measured_ones_of_resnet():
    """detectron2's docs/notes/benchmarks.md: mmdet trains on 53 images a second with 8 V100."""
    hours = gpu_hours(get_config('maskrcnn_resnet50_coco'), training=True)
    assert hours == pytest.approx(12 * 117_266 / 53 * 8 / 3600, rel=0.01)
    seconds = 3600 * gpu_hours(get_config('maskrcnn_resnet50_coco'), training=False, images=10)
    assert seconds == pytest.approx(10 / 53 * 8 / 3, rel=0.01)
    # 40k iterations of 32 crops.
    cfg = get_config('fpn_resnet50_ade20k')
    assert gpu_hours(cfg, training=True) == pytest.approx(
        3 * 40_000 * 32 / 2000 * gpu_hours(cfg, training=False)
    )


def test_commands_on_one_gpu_and_on_several():
    def of(gpus: int) -> tuple[list[str], list[str]]:
        job = reproducing.Job(ENTRY['fpn_swin_t_ade20k'], Path('o'), gpus, ('a=1',), limit=2)
        return job.training_command(), job.evaluation_command(Path('w.pth'))

    plain, evaluation = of(1)
    assert plain[:2] == [sys.executable, '-u'] and plain[2].endswith('tools/train.py')
    assert plain[3].endswith('segmentation/fpn_swin_t_ade20k.py')
    work_dir = ['--work-dir', 'o/train/fpn_swin_t_ade20k']
    assert plain[4:] == [*work_dir, '--resume', '--auto-scale-lr', '--cfg-options', 'a=1']
    assert evaluation[2].endswith('tools/test.py') and evaluation[3] == plain[3]
    folder = 'o/rows/fpn_swin_t_ade20k'
    assert evaluation[4:] == [
        *('w.pth', '--work-dir', folder, '--out', f'{folder}/measured.json', '--limit', '2'),
        *('--cfg-options', 'a=1'),
    ]
    several, _ = of(8)
    assert several[2:6] == ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=8']
    assert several[6:-2] == plain[2:] and several[-2:] == ['--launcher', 'pytorch']


def test_progress_of_a_tool(tmp_path):
    code, seen = 'print("Epoch(test) [ 50/5000]  eta"); print("Iter(train) [  7/40]  lr")', []
    run_tool([sys.executable, '-c', code], tmp_path / 'log.txt', lambda **numbers: seen.append(numbers))
    assert seen == [dict(completed=50, total=5000), dict(completed=7, total=40)]
    assert (tmp_path / 'log.txt').read_text().count('\n') == 2


BANNER = 'print("=" * 20); print("Root Cause:"); print("=" * 20)'


@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        ('print("error: x.pth: truncated."); print("noise"); exit(1)', 'exit code 1: x.pth: truncated.'),
        ('print("last words"); exit(3)', 'exit code 3: last words'),
        (f'print("[rank0]: OutOfMemoryError: 9 GiB"); {BANNER}; 1 / 0', '1: OutOfMemoryError: 9 GiB'),
        ('import os; os.kill(os.getpid(), 9)', 'exit code -9: no output'),
    ],
)
def test_failure_of_a_tool(tmp_path, code, reason):
    with pytest.raises(UserError, match=reason):
        run_tool([sys.executable, '-c', code], tmp_path / 'log.txt', lambda **_: None)


class Evaluated:
    """The evaluation of a row by a fake tool, which writes a given result and counts its calls."""

    def __init__(self, monkeypatch, folder: Path, name: str, **job) -> None:
        self.calls = 0
        self.result = dict(
            metrics={'mIoU': 42.0, 'accuracy/top1': 80.0}, images=2000, seconds=1.0, machine={}
        )
        self.entry, self.folder, self.job = ENTRY[name], folder, job
        monkeypatch.setattr(reproducing, 'run_tool', self.write)

    def write(self, command: list[str], *_) -> None:
        self.calls += 1
        file = Path(command[command.index('--out') + 1])
        file.write_text(json.dumps(self.result))

    def __call__(self, checkpoint: Path) -> reproducing.Row:
        row = reproducing.Row(self.entry.name, self.entry.title, dict(self.entry.published))
        reproducing.Job(self.entry, self.folder, **self.job).measure(row, checkpoint.parent, lambda **_: None)
        return row


@pytest.fixture
def weights(tmp_path) -> Path:
    file = tmp_path / 'iFormer_m_iter_40000.pth'
    file.write_bytes(b'other')
    return file


def test_a_measured_row_is_kept_until_something_changes(tmp_path, monkeypatch, weights):
    data = tmp_path / 'ade/ADEChallengeData2016/images/validation'
    data.mkdir(parents=True)
    monkeypatch.setenv('MMIFORMER_DATA', str(tmp_path))
    evaluate = Evaluated(monkeypatch, tmp_path / 'out', 'fpn_iformer_m_ade20k')
    assert evaluate(weights).measured == dict(miou=42.0) and evaluate.calls == 1
    assert evaluate(weights).measured == dict(miou=42.0) and evaluate.calls == 1
    (data / 'another.jpg').touch()
    evaluate(weights)
    assert evaluate.calls == 2, 'the data changed'
    weights.write_bytes(b'different')
    evaluate(weights)
    assert evaluate.calls == 3, 'the weights changed'
    monkeypatch.setenv('MMIFORMER_DATA', '/elsewhere')
    evaluate(weights)
    assert evaluate.calls == 4, 'the data are elsewhere'
    evaluate.job = dict(overrides=('env_cfg.cudnn_benchmark=False',))
    assert evaluate(weights).comparable and evaluate.calls == 5, 'the settings changed'
    monkeypatch.setattr(reproducing, 'describe_machine', lambda _: dict(versions=dict(torch='9')))
    evaluate(weights)
    assert evaluate.calls == 6, 'torch changed'


def test_comparable_rows(tmp_path, monkeypatch, weights):
    evaluate = Evaluated(monkeypatch, tmp_path / 'out', 'fpn_iformer_m_ade20k')
    row = evaluate(weights)
    assert row.comparable and row.released and row.compare('miou')['within'] is False  # 42.0 and 42.4
    evaluate.job = dict(overrides=('model.test_cfg.mode=slide',))
    row = evaluate(weights)
    assert not row.comparable and 'model.test_cfg.mode=slide' in row.remarks[0]
    evaluate.job, evaluate.result['images'] = dict(limit=100), 100
    row = evaluate(weights)
    assert not row.comparable and row.remarks[0] == 'measured on 100 of 2,000 images: not comparable.'
    evaluate.job, evaluate.result['metrics'] = dict(limit=99), {}
    row = evaluate(weights)
    assert row.status == 'failed' and 'gave no metrics' in row.remarks[-1]


def test_an_own_run_has_a_larger_tolerance(tmp_path, monkeypatch):
    (tmp_path / 'fpn_iformer_m_ade20k.pth').write_bytes(b'own')
    row = Evaluated(monkeypatch, tmp_path / 'out', 'fpn_iformer_m_ade20k')(tmp_path / 'any.pth')
    assert not row.released and row.compare('miou')['within'] is True


def test_a_training_is_not_resumed_with_other_settings(tmp_path, monkeypatch):
    evaluate = Evaluated(monkeypatch, tmp_path, 'fpn_iformer_t_ade20k')
    folder = tmp_path / 'train/fpn_iformer_t_ade20k'

    def run(command: list[str], *_) -> None:
        if '--out' in command:
            return evaluate.write(command)
        (folder / 'iter_1.pth').touch()
        (folder / 'last_checkpoint').write_text(str(folder / 'iter_1.pth'))

    def train(*overrides: str) -> reproducing.Row:
        row = reproducing.Row(evaluate.entry.name, 'iFormer-T', {})
        reproducing.Job(evaluate.entry, tmp_path, 1, overrides).measure(row, None, lambda **_: None)
        return row

    monkeypatch.setattr(reproducing, 'run_tool', run)
    assert train('a=1').status == 'measured'
    assert 'was trained with other settings' in train('a=2').remarks[0]
    assert train('a=1').status == 'measured'
