import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmiformer.apis.hub import get_config
from mmiformer.utils.errors import UserError
from mmiformer.zoo import reproducing
from mmiformer.zoo.effort import gpu_hours
from mmiformer.zoo.entries import entries
from mmiformer.zoo.launching import Launch, run_tool
from mmiformer.zoo.published import DOWNSTREAM

ENTRY = {entry.name: entry for entry in entries()}


def names(pairs) -> list[str]:
    return [row.name for row, _ in pairs]


def test_rows_are_the_published_table_in_its_order(tmp_path):
    for task, framework in (('det', 'Mask R-CNN'), ('seg', 'Semantic FPN')):
        rows = reproducing.rows_of([task], [], tmp_path)
        table = [r.title for r in DOWNSTREAM if task == 'det' or r.miou is not None]
        assert [row.title for row, _ in rows] == table
        assert [row.title for row, entry in rows if entry is None] == ['EfficientMod-S']
        assert all(entry.framework == framework for _, entry in rows if entry)
    assert len(reproducing.rows_of(['cls'], [], tmp_path)) == 9


def test_what_is_not_published_is_a_row_if_asked_for_or_there(tmp_path):
    assert 'upernet_iformer_t_ade20k' not in names(reproducing.rows_of(['seg'], [], tmp_path))
    (tmp_path / 'upernet_iformer_t_ade20k.pth').touch()
    assert names(reproducing.rows_of(['seg'], [], tmp_path))[-1] == 'upernet_iformer_t_ade20k'
    asked = reproducing.rows_of(['det', 'seg'], ['*_iformer_s_*'], tmp_path)
    assert names(asked) == [
        'maskrcnn_iformer_s_coco',
        'retinanet_iformer_s_coco',
        'fpn_iformer_s_ade20k',
        'upernet_iformer_s_ade20k',
    ]
    with pytest.raises(UserError, match="--rows 'fpn_x': fits no config of the tasks det, seg"):
        reproducing.rows_of(['det', 'seg'], ['fpn_x'], tmp_path)
    with pytest.raises(UserError, match='fits no config of the tasks det'):
        reproducing.rows_of(['det'], ['fpn_*'], tmp_path)


def test_checkpoints_by_official_names_ours_and_work_dirs(tmp_path):
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


def test_hours_are_those_that_were_measured_of_resnet():
    """detectron2's docs/notes/benchmarks.md: mmdet trains on 53 images a second with 8 V100."""
    hours = gpu_hours(get_config('maskrcnn_resnet50_coco'), 'det', training=True)
    assert hours == pytest.approx(12 * 117_266 / 53 * 8 / 3600, rel=0.01)
    seconds = 3600 * gpu_hours(get_config('maskrcnn_resnet50_coco'), 'det', training=False, images=10)
    assert seconds == pytest.approx(10 / 53 * 8 / 3, rel=0.01)
    # 40k iterations of 32 crops.
    cfg = get_config('fpn_resnet50_ade20k')
    assert gpu_hours(cfg, 'seg', training=True) == pytest.approx(
        3 * 40_000 * 32 / 2000 * gpu_hours(cfg, 'seg', training=False)
    )


def test_commands_of_the_launchers():
    def of(*launch):
        job = reproducing.Job(ENTRY['fpn_swin_t_ade20k'], Path('o'), Launch(*launch), ('a=1',), limit=2)
        return job.training_command(), job.evaluation_command(Path('w.pth'))

    plain, evaluation = of()
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
    several, _ = of('pytorch', 8)
    assert several[2:6] == ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=8']
    assert several[6:-2] == plain[2:] and several[-2:] == ['--launcher', 'pytorch']
    slurm, _ = of('slurm', 16, 'gpu')
    assert slurm[:5] == ['srun', '--partition=gpu', '--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8']
    assert slurm[6:-2] == plain and slurm[-2:] == ['--launcher', 'slurm']


BANNER = 'print("=" * 20); print("Root Cause:"); print("=" * 20)'


@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        ('print("Epoch(test) [ 50/5000]  eta"); print("Iter(train) [  7/40]  lr")', None),
        ('import sys; print("error: x.pth: truncated."); print("noise"); sys.exit(1)', 'x.pth: truncated.'),
        (
            'import sys; print("last words"); print("-" * 9); sys.exit(3)',
            'ended with exit code 3: last words',
        ),
        (
            f'print("[rank0]: OutOfMemoryError: 9 GiB"); {BANNER}; 1 / 0',
            'exit code 1: OutOfMemoryError: 9 GiB',
        ),
        ('import os; os.kill(os.getpid(), 9)', 'killed by signal 9: no output'),
    ],
)
def test_a_tool_is_run_to_its_end_and_its_fault_told(tmp_path, code, reason):
    told = []
    log = tmp_path / 'log.txt'
    found = run_tool([sys.executable, '-c', code], log, lambda *numbers: told.append(numbers))
    if reason is None:
        assert found is None and told == [(50, 5000), (7, 40)]
        assert log.read_text().count('\n') == 2
    else:
        assert reason in found


def test_a_launcher_that_is_not_there_is_told(tmp_path):
    found = run_tool(['srun-of-nowhere'], tmp_path / 'log.txt', lambda *_: None)
    assert found == 'srun-of-nowhere: cannot be started (No such file or directory).'


class Evaluated:
    """A row's evaluation with a tool that writes what it is told to, and counts its calls."""

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
        file.write_text(self.result if isinstance(self.result, str) else json.dumps(self.result))

    def __call__(self, checkpoint: Path, **changes) -> reproducing.Row:
        row = reproducing.Row(self.entry.name, self.entry.title, dict(self.entry.published), 'pending')
        entry = replace(self.entry, **changes)
        reproducing.Job(entry, self.folder, **self.job).evaluate(row, checkpoint, lambda *_: None)
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
    (tmp_path / 'out/rows/fpn_iformer_m_ade20k/measured.json').write_text('{"metr')
    assert evaluate(weights).status == 'measured' and evaluate.calls == 7, 'a half-written file'
    assert evaluate(weights).status == 'measured' and evaluate.calls == 7


def test_what_is_not_to_be_compared(tmp_path, monkeypatch, weights):
    evaluate = Evaluated(monkeypatch, tmp_path / 'out', 'fpn_iformer_m_ade20k')
    row = evaluate(weights)
    assert (row.comparable, row.within('miou')) == (True, False)  # 42.0 and 42.4, of a released file.
    assert row.remarks[-1] == 'further away than the tolerance in mIoU.'
    own = tmp_path / 'fpn_iformer_m_ade20k.pth'
    own.write_bytes(b'own')
    assert evaluate(own).within('miou') is True, 'a run of ones own'
    half = tmp_path / 'iter_20000.pth'
    half.write_bytes(b'half')
    row = evaluate(half)
    assert not row.comparable and 'trained to iter 20000 of 40000: not to be compared.' in row.remarks
    evaluate.job = dict(overrides=('model.test_cfg.mode=slide',))
    row = evaluate(weights)
    assert not row.comparable and 'model.test_cfg.mode=slide' in row.remarks[0]
    evaluate.job, evaluate.result['images'] = dict(limit=100), 100
    row = evaluate(weights)
    assert not row.comparable and row.remarks[0] == 'measured on 100 of 2,000 images: not to be compared.'
    evaluate.job, evaluate.result['metrics'] = dict(limit=99), {}
    row = evaluate(weights)
    assert row.status == 'failed' and 'gave no figures' in row.remarks[-1]


def test_training_does_not_go_on_with_other_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(reproducing, 'run_tool', lambda *_: None)
    entry = ENTRY['fpn_iformer_t_ade20k']

    def train(*overrides: str) -> str | None:
        return reproducing.Job(entry, tmp_path, overrides=overrides).train(lambda *_: None)

    assert 'left no checkpoint' in train('a=1')
    folder = tmp_path / 'train' / entry.name
    (folder / 'iter_1.pth').touch()
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_1.pth'))
    assert train('a=1') is None
    assert 'was trained with other settings' in train('a=2')
    assert train('a=1') is None


def test_another_file_than_the_reported_one_is_told(tmp_path, monkeypatch):
    evaluate = Evaluated(monkeypatch, tmp_path / 'out', 'iformer_t_in1k')
    file = tmp_path / 'iFormer_t.pth'
    file.write_bytes(b'other')
    row = evaluate(file)
    assert row.released and 'SHA-256' in row.remarks[0] and '7cbd778e' in row.remarks[0]
    # sha256sum's of the five letters.
    digest = 'd9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa'
    assert row.details['sha256'] == digest
    again = evaluate(file, weights=replace(evaluate.entry.weights, sha256=digest))
    assert not any('SHA-256' in remark for remark in again.remarks)
