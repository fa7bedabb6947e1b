"""How tests start two processes on one machine, on CPUs over gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from helpers import CONFIG, SHORT, SHORT_SEG

CONFIGS = dict(
    det=CONFIG,
    seg='configs/segmentation/fpn_iformer_t_ade20k.py',
    cls='configs/classification/iformer_t_in1k.py',
)
OPTIONS = dict(det=SHORT, seg=SHORT_SEG, cls=SHORT[:9])


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


def environment(**variables: object) -> dict[str, str]:
    """This process's, without GPUs and real data, and with the checkout's package."""
    path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
    made = dict(
        os.environ, PYTHONPATH=path, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1'
    )
    made.pop('MMIFORMER_DATA', None)
    return made | {name: str(value) for name, value in variables.items()}


def start_as_slurm(
    arguments: list, folders: dict[int, Path], out: Path, **variables: object
) -> dict[int, subprocess.Popen]:
    """Starts those of two processes that have a folder, as srun does; each writes into ``out/RANK.txt``."""
    variables |= dict(SLURM_NTASKS=2, SLURM_NODELIST='localhost')
    variables |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    processes = {}
    for rank, folder in folders.items():
        with (out / f'{rank}.txt').open('w') as text:
            processes[rank] = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env=environment(**variables, SLURM_PROCID=rank, SLURM_LOCALID=rank),
                cwd=folder,
                stdout=text,
                stderr=subprocess.STDOUT,
            )
    return processes
