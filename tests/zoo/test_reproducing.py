import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmiformer.errors import UserError
from mmiformer.results import DOWNSTREAM
from mmiformer.zoo import reproducing
from mmiformer.zoo.effort import gpu_hours
from mmiformer.zoo.entries import entries
from mmiformer.zoo.hub import get_config

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
    with pytest.raises(UserError, match="--rows 'maskrcnn_x': fits no config"):
        reproducing.rows_of(['det'], ['maskrcnn_x'], tmp_path)


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
    missing = reproducing.where_to_get(ENTRY['maskrcnn_iformer_l_coco'], tmp_path)
    assert 'v0.9/iFormer_l_epoch_12.pth' in missing and str(tmp_path) in missing
    assert 'no weights were released' in reproducing.where_to_get(own, tmp_path)


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
    def of(launch):
        return reproducing.training_command(ENTRY['fpn_swin_t_ade20k'], Path('w'), launch, ['--amp'])

    plain = of(reproducing.Launch())
    config = plain[3]
    assert plain[:2] == [sys.executable, '-u'] and plain[2].endswith('tools/train.py')
    assert config.endswith('segmentation/fpn_swin_t_ade20k.py')
    assert plain[4:] == ['--work-dir', 'w', '--resume', '--auto-scale-lr', '--amp']
    several = of(reproducing.Launch('pytorch', 8))
    assert several[2:6] == ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=8']
    assert several[6:-2] == plain[2:] and several[-2:] == ['--launcher', 'pytorch']
    slurm = of(reproducing.Launch('slurm', 16, 'gpu'))
    assert slurm[:5] == [
        *('srun', '--partition=gpu', '--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8'),
    ]
    assert slurm[6:-2] == plain and slurm[-2:] == ['--launcher', 'slurm']


@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        ('print("Epoch(test) [ 50/5000]  eta"); print("Iter(train) [  7/40]  lr")', None),
        ('import sys; print("error: x.pth: truncated."); print("noise"); sys.exit(1)', '^x.pth: truncated.$'),
        ('import sys; print("last words"); sys.exit(3)', 'ended with exit code 3: last words'),
        ('import os; os.kill(os.getpid(), 9)', 'killed by signal 9: no output'),
    ],
)
def test_a_tool_is_run_to_its_end_and_its_fault_told(tmp_path, code, reason):
    told = []
    log = tmp_path / 'log.txt'
    command = [sys.executable, '-c', code]
    found = reproducing.run_tool(command, log, tmp_path, lambda *numbers: told.append(numbers))
    if reason is None:
        assert found is None and told == [(50, 5000), (7, 40)]
        assert log.read_text().count('\n') == 2
    else:
        assert re.search(reason, found)


def test_another_file_than_the_reported_one_is_told(tmp_path, monkeypatch):
    entry = ENTRY['iformer_t_in1k']
    file = tmp_path / entry.weights.file
    file.write_bytes(b'other')
    monkeypatch.setattr(reproducing, 'run_tool', lambda *_: 'it is no checkpoint.')

    def run(weights):
        row = reproducing.Row(entry.name, entry.title, dict(entry.published), 'pending')
        evaluated = replace(entry, weights=weights)
        reproducing.Evaluation(evaluated, file, tmp_path / 'row', reproducing.Launch()).run(
            row, lambda *_: None
        )
        return row

    row = run(entry.weights)
    assert (row.status, row.trained) == ('failed', False)
    assert 'SHA-256' in row.remarks[0] and entry.weights.sha256[:8] in row.remarks[0]
    # sha256sum's of the five letters.
    digest = 'd9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa'
    assert row.details['sha256'] == digest
    assert run(replace(entry.weights, sha256=digest)).remarks == ['it is no checkpoint.']
