"""tools/train.py in processes that can be killed, without the half minute of imports for each of them."""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import sharing
import torch

TOOL = Path(__file__).resolve().parents[1] / 'tools' / 'train.py'
# Its children are copies of one process that has these imported.
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['forked_training', 'mmiformer.engine.curves', 'mmdet.apis', 'mmseg.apis'])


def warm_up() -> None:
    """Has the imports done; without it the first start does them."""
    process = _CONTEXT.Process(target=int)
    process.start()
    process.join()


def start(arguments: tuple, folder: Path, log: Path) -> multiprocessing.Process:
    """Starts it in ``folder``, what it prints going to the end of ``log``."""
    process = _CONTEXT.Process(target=_train, args=([str(a) for a in arguments], str(folder), str(log)))
    process.start()
    return process


def _train(arguments: list[str], folder: str, log: str) -> None:
    os.setsid()  # Its data workers can be found by its group.
    with open(log, 'a') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(folder)
    os.environ.pop('MMIFORMER_DATA', None)
    torch.set_num_threads(1)
    sharing.format_once()
    sharing.collect_no_garbage()
    sys.argv = ['train.py', *arguments]
    sys.path.insert(0, str(TOOL.parent))  # As of a script that Python is given.
    runpy.run_path(str(TOOL), run_name='__main__')
