"""Training that is killed again and again ends as if it had never been."""

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked_training
import pytest
import torch
from helpers import CONFIG, SHORT, SHORT_SEG

CONFIGS = dict(
    det=(CONFIG, SHORT),
    seg=('configs/segmentation/fpn_iformer_t_ade20k.py', SHORT_SEG),
    cls=('configs/classification/iformer_t_in1k.py', SHORT[:8]),
)


def same(a: object, b: object) -> bool:
    """Whether nested containers hold the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def parts_of(run: Path) -> list[Path]:
    return list(run.glob('*.part'))


def written(run: Path) -> list[Path]:
    return sorted(run.glob('*.pth'))


def wait(process: BaseProcess, event: Callable[[], object]) -> None:
    while process.is_alive() and not event():
        time.sleep(0.001)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize('task', CONFIGS)
def test_killed_at_random_moments_it_ends_bit_for_bit_the_same(root, at_work, tmp_path, request, task):
    kills = request.config.getoption('kills')
    iterations = 4 * kills
    config, options = CONFIGS[task]
    options = [
        *options,
        'train_dataloader.dataset.indices=32',
        f'train_cfg.max_iters={iterations}',
        f'train_cfg.val_interval={iterations // 2}',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'train_dataloader.num_workers=2',
        'train_dataloader.persistent_workers=True',
    ]
    log = tmp_path / 'log'
    run = tmp_path / 'run'

    def start(folder: Path) -> BaseProcess:
        arguments = (root / config, '--demo', '--resume', '--work-dir', folder, '--cfg-options', *options)
        return forked_training.start(arguments, at_work, log)

    forked_training.warm_up()
    whole = start(tmp_path / 'whole')
    begun = time.monotonic()
    wait(whole, lambda: written(tmp_path / 'whole'))
    first = time.monotonic()
    whole.join()
    step = (time.monotonic() - first) / iterations
    assert whole.exitcode == 0, log.read_text()[-3000:]

    chance = random.Random(kills)
    groups, while_writing = [], 0
    while len(groups) < kills:
        process = start(run)
        moment = len(groups) % 3
        if moment == 0:  # Within some steps.
            seen = written(run)
            wait(process, lambda: written(run) != seen)  # noqa: B023  Called at once.
            time.sleep(chance.uniform(0, 2 * step))
        elif moment == 1:  # While a checkpoint is written.
            wait(process, lambda: parts_of(run))
            time.sleep(chance.uniform(0, 0.05))
        else:  # Before the first step, or a little later.
            process.join(chance.uniform(0, first - begun + step))
        groups.append(process.pid)
        assert process.is_alive(), log.read_text()[-3000:]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while_writing += bool(parts_of(run))
        files = written(run)
        for file in files:
            torch.load(file, weights_only=False)
        pointer = run / 'last_checkpoint'
        if pointer.exists():
            assert Path(pointer.read_text()) in files and len(files) <= 2
    last = start(run)
    last.join()
    assert last.exitcode == 0, log.read_text()[-3000:]
    print(f'{task}: {kills} kills in {iterations} steps, {while_writing} of them while writing')
    assert [p.name for p in run.glob('*.p*t*')] == [f'iter_{iterations}.pth'], 'nothing is left lying about'

    expected, found = (
        torch.load(folder / f'iter_{iterations}.pth', weights_only=False)
        for folder in (tmp_path / 'whole', run)
    )
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert same(found[key], expected[key]), key
    deadline = time.monotonic() + 30
    while any(map(alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.1)  # Data workers look after their parent every few seconds.
    assert not any(map(alive, groups))
