"""One of two processes is killed, hangs or fails: the other ends with an error, and no process remains.

Runs some of the cases; with ``--every-fault`` all of them.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from launching import CONFIGS, OPTIONS, environment, free_port, start_as_slurm

from mmiformer.apis.cli import load_config

pytestmark = pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='looks into /proc')

# Task, launcher, moment, what happens to a process, and which one it is.
EVERY = [
    *product(CONFIGS, ('slurm', 'torchrun'), ('start', 'train', 'val'), ('killed',), (0, 1)),
    *product(CONFIGS, ('slurm', 'torchrun'), ('train',), ('hangs',), (0, 1)),
    *product(CONFIGS, ('slurm',), ('train',), ('fails',), (0, 1)),
]
SOME = [
    ('cls', 'slurm', 'train', 'fails', 1),
    ('det', 'slurm', 'val', 'killed', 0),
    ('seg', 'torchrun', 'train', 'killed', 1),
]
PATIENCE = 240  # Seconds, for a machine that is busy with other things.
TIMEOUT = 15  # Seconds that a process waits for another one.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'fault' in metafunc.fixturenames:
        cases = EVERY if metafunc.config.getoption('every_fault') else SOME
        names = ('task', 'launcher', 'moment', 'fault', 'rank')
        metafunc.parametrize(names, cases, ids=['-'.join(map(str, case)) for case in cases])


def alive(mark: str) -> dict[int, tuple[int, set[bytes]]]:
    """Processes that have ``mark`` in their environment, by id; of each its parent and its environment."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            variables = {*(folder / 'environ').read_bytes().split(b'\0')}  # Nothing in that of a zombie.
            parent = int((folder / 'stat').read_text().rpartition(')')[2].split()[1])
        except OSError:  # Ended meanwhile, or somebody else's.
            continue
        if mark.encode() in variables:
            found[int(folder.name)] = parent, variables
    return found


def of_rank(rank: int | None, variables: set[bytes]) -> bool:
    return bool({f'RANK={rank}'.encode(), f'SLURM_PROCID={rank}'.encode()} & variables)


def wait(condition, what: str):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f'waited for {what}'
        time.sleep(0.1)
    return found


def text(out: Path) -> str:
    return '\n'.join(file.read_text() for file in sorted(out.glob('*.txt')))


def test_the_other_process_ends_with_an_error(root, at_work, tmp_path, task, launcher, moment, fault, rank):
    other = 1 - rank
    config = root / CONFIGS[task]
    load_config(str(config), demo=True)  # Makes the data; two processes wait for it no longer than TIMEOUT.
    options = [*OPTIONS[task], f'env_cfg.dist_cfg.timeout={TIMEOUT}', 'train_cfg.max_iters=100000']
    options += ['train_dataloader.num_workers=1', 'val_dataloader.num_workers=1']
    options += ['val_dataloader.dataset.indices=24' if moment == 'val' else 'train_cfg.val_interval=100000']
    arguments = [root / 'tools/train.py', config, '--demo', '--work-dir', tmp_path / 'run']
    arguments += ['--launcher', dict(torchrun='pytorch').get(launcher, launcher), '--cfg-options', *options]
    mark = f'TEST_OF_LOST_PROCESSES={tmp_path}'
    try:
        if launcher == 'torchrun':
            with (tmp_path / 'torchrun.txt').open('w') as file:
                waited_for = subprocess.Popen(
                    [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2']
                    + [f'--master_port={free_port()}', *map(str, arguments)],
                    env=environment(TEST_OF_LOST_PROCESSES=tmp_path),
                    cwd=at_work,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            struck = lambda: [  # noqa: E731
                process
                for process, (parent, variables) in alive(mark).items()
                if parent == waited_for.pid and of_rank(rank, variables)
            ]
        else:
            folders = {rank: at_work, other: at_work}
            if fault == 'fails':
                folders[rank] = broken_data(at_work, tmp_path / 'broken')
            if moment == 'start':
                del folders[rank]  # As one that was killed before it did anything.
            started = start_as_slurm(arguments, folders, tmp_path, TEST_OF_LOST_PROCESSES=tmp_path)
            waited_for = started[other]
            struck = lambda: [started[rank].pid]  # noqa: E731
        if fault != 'fails' and moment != 'start':
            wait(lambda: f'Iter({moment}) [' in text(tmp_path), 'the first step')
        if fault != 'fails' and (launcher, moment) != ('slurm', 'start'):
            (process,) = wait(struck, 'the process')
            os.kill(process, signal.SIGKILL if fault == 'killed' else signal.SIGSTOP)
        assert waited_for.wait(PATIENCE) != 0
        # Without a launcher a hung process stays.
        stays = rank if (launcher, fault) == ('slurm', 'hangs') else None
        wait(
            lambda: all(of_rank(stays, variables) for _, variables in alive(mark).values()), 'the end of all'
        )
    finally:
        for process in alive(mark):
            os.kill(process, signal.SIGKILL)
    said = text(tmp_path)
    errors = re.findall('^error: .*', said, re.M)
    if launcher == 'slurm':
        assert 'Traceback' not in said
        mine = re.findall('^error: .*', (tmp_path / f'{other}.txt').read_text(), re.M)
        assert len(mine) == 1
        expected = f'rank {other} of 2: lost contact with another process .*--resume'
        assert re.search(expected, mine[0])
        assert moment == 'start' or ('Timed out' in mine[0]) == (fault == 'hangs'), (
            'no timeout unless it hangs'
        )
        if fault == 'fails':
            assert re.search(r'data/demo/.*/train.*: not a readable image', errors[rank])
    else:
        assert said.count('Traceback') == 1 and 'ChildFailedError' in said, "only torchrun's own report"
        # Unless torchrun ends the other process first.
        assert all(re.search(f'rank {other} of 2: lost .*--resume', error) for error in errors)


def broken_data(folder: Path, new: Path) -> Path:
    """A folder with the demo data of another one, its training images broken."""

    def copy(source: str, made: str) -> None:
        image = source.lower().endswith(('.jpg', '.jpeg'))
        Path(made).touch() if image and 'train' in source else os.symlink(source, made)

    shutil.copytree(folder / 'data', new / 'data', copy_function=copy)
    return new
