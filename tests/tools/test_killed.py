"""A training that is killed repeatedly ends like one that is not."""

import importlib.metadata
import json
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked_training
import pytest
import torch
from helpers import CONFIG, SHORT, SHORT_SEG, same

from mmiformer.apis.cli import load_config
from mmiformer.utils.files import parts_in

CONFIGS = dict(
    det=(CONFIG, SHORT),
    seg=('configs/segmentation/fpn_iformer_t_ade20k.py', SHORT_SEG),
    cls=('configs/classification/iformer_t_in1k.py', SHORT[:9]),
)


def written(run: Path) -> list[Path]:
    return sorted(run.glob('iter_*.pth'))


def last_step(run: Path) -> int:
    return max((int(file.stem.removeprefix('iter_')) for file in written(run)), default=0)


def wait(process: BaseProcess, event: Callable[[], object], seconds: float = float('inf')) -> None:
    end = time.monotonic() + seconds
    while process.is_alive() and not event() and time.monotonic() < end:
        time.sleep(0.001)


def stop_during(process: BaseProcess, event: Callable[[], object]) -> None:
    wait(process, event)
    while process.is_alive():
        os.kill(process.pid, signal.SIGSTOP)
        if event():
            return
        os.kill(process.pid, signal.SIGCONT)  # It was too late.
        wait(process, event)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Reference:
    """A run that is not killed.

    Attributes:
        task: Key of CONFIGS.
        folder: Its work dir; those of other runs are beside it.
        steps: Number of them.
        start: Starts or resumes the same run in another work dir.
        before: Seconds from having a work dir to its first checkpoint.
        step: Seconds that a step takes.
    """

    task: str
    folder: Path
    steps: int
    start: Callable[[Path], BaseProcess]
    before: float
    step: float

    @property
    def log(self) -> Path:
        return self.folder.with_name('log')

    def finish(self, process: BaseProcess) -> None:
        process.join()
        assert process.exitcode == 0, self.log.read_text()[-3000:]

    def ends_as(self, other: Path) -> None:
        name = f'iter_{self.steps}.pth'
        expected, found = (torch.load(run / name, weights_only=False) for run in (self.folder, other))
        for key in ('state_dict', 'optimizer', 'param_schedulers'):
            assert same(found[key], expected[key]), key


@pytest.fixture(scope='module', params=CONFIGS)
def reference(request, root, workplace, tmp_path_factory) -> Reference:
    # The first of three kills lets the run advance by 2 steps, the others rarely do.
    steps = 2 * max(3, request.config.getoption('kills'))
    config, options = CONFIGS[request.param]
    options = [
        *options,
        'train_dataloader.dataset.indices=32',
        f'train_cfg.max_iters={steps}',
        'train_cfg.val_interval=4',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'default_hooks.checkpoint.interval=2',
        'train_dataloader.num_workers=2',
        'train_dataloader.persistent_workers=True',
    ]
    folder = tmp_path_factory.mktemp(request.param)

    def start(run: Path) -> BaseProcess:
        arguments = (root / config, '--demo', '--resume', '--work-dir', run, '--cfg-options', *options)
        return forked_training.start(arguments, workplace, folder / 'log')

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        load_config(str(root / config), demo=True)  # Makes the data, where it need not be drawn again.
    forked_training.warm_up()
    process = start(folder / 'reference')
    wait(process, (folder / 'reference').exists)
    begun = time.monotonic()
    wait(process, lambda: written(folder / 'reference'))
    before = time.monotonic() - begun
    process.join()
    step = (time.monotonic() - begun - before) / steps
    made = Reference(request.param, folder / 'reference', steps, start, before, step)
    made.finish(process)
    return made


def test_a_run_killed_at_random_moments_ends_with_the_same_weights(reference, request):
    kills = request.config.getoption('kills')
    run = reference.folder.with_name('killed')
    generator = random.Random(kills)
    groups, while_writing = [], 0
    while len(groups) < kills:
        seen, left = last_step(run), set(parts_in(run))
        progressed = lambda: last_step(run) > seen  # noqa: B023, E731  Called at once.
        half_written = lambda: {p for p in parts_in(run) if p.suffix == '.pth'} - left  # noqa: B023, E731
        process = reference.start(run)
        moment = len(groups) % 3
        if moment == 0:  # Within some steps.
            wait(process, progressed)
            wait(process, lambda: last_step(run) > seen + 3, generator.uniform(0, reference.step))  # noqa: B023
        elif moment == 1:  # While a checkpoint is written.
            stop_during(process, half_written)
        else:  # While it starts.
            wait(process, progressed, generator.uniform(0, reference.before))
        groups.append(process.pid)
        assert process.is_alive(), reference.log.read_text()[-3000:]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert half_written() or moment != 1, 'the part of a checkpoint is left'
        while_writing += bool(half_written())
        files = written(run)
        for file in files:
            torch.load(file, weights_only=False)
        pointer = run / 'last_checkpoint'
        if pointer.exists():
            assert Path(pointer.read_text()) in files and len(files) <= 2
    reference.finish(reference.start(run))
    print(
        f'{reference.task}: {kills} kills in {reference.steps} steps, {while_writing} of them while writing'
    )
    assert not parts_in(run) and len(written(run)) == 1, 'no other files are left'
    reference.ends_as(run)
    deadline = time.monotonic() + 30
    while any(map(alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, groups)), 'data workers ended as well'


@pytest.mark.parametrize('reference', ['det'], indirect=True)  # Which draws the most random numbers.
def test_the_config_of_a_run_repeats_it(reference, root, workplace):
    run = reference.folder.with_name('again')
    arguments = (reference.folder / 'config.py', '--work-dir', run)
    reference.finish(forked_training.start(arguments, workplace, reference.log))
    first, again = losses(reference.folder), losses(run)
    assert len(first) == reference.steps and again == first
    reference.ends_as(run)
    record = json.loads(next(run.glob('*/run.json')).read_text())
    assert record['command'] == shlex.join(map(str, [forked_training.TOOL, *arguments]))
    head = subprocess.run(
        ['git', 'rev-parse', 'HEAD'], cwd=root, capture_output=True, text=True
    ).stdout.strip()
    assert record['commit'] is None or record['commit'].removesuffix('-dirty') == head
    assert record['versions']['torch'] == importlib.metadata.version('torch')
    assert (record['seed'], record['processes'], record['resumed']) == (0, 1, None)


def losses(run: Path) -> dict[int, dict]:
    lines = next(run.glob('*/vis_data/scalars.json')).read_text().splitlines()
    records = [record for record in map(json.loads, lines) if 'loss' in record]
    return {record['step']: {key: record[key] for key in record if 'loss' in key} for record in records}
