"""Several processes: mmengine's way, made to work on machines without a GPU as well.

Three things in mmengine's way ask for CUDA whatever the backend is. Its ``init_dist`` sets a CUDA device
for each process, its runner gives the model's wrapper that device, and torch's SyncBatchNorm has no kernels
for the CPU. Here the processes of a CPU meet over gloo, under a wrapper without a device, with BatchNorm.
"""

import ctypes
import functools
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_rank, get_world_size, init_dist
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn

from mmiformer.utils.configs import walk
from mmiformer.utils.cpu import prepare_for_cpu
from mmiformer.utils.errors import UserError, first_line

# What a launcher tells each process it starts, and the line that starts them.
_LAUNCHERS = {
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
}
_STARTED_BY = {'pytorch': 'torchrun or tools/dist_train.sh', 'slurm': 'srun or tools/slurm_train.sh'}

# Gloo's errors have no class of their own: "[.../gloo/transport/tcp/pair.cc:553] Connection closed by peer
# [10.0.0.2]:27013. This is typically caused by ...".
_GLOO_ERROR = re.compile(r'gloo/\S+:\d+\] (.+?)(\. |\.?$)', re.M)

_ADVICE = (
    'look for the first error among what all of them printed (one that was killed prints none), then start '
    'all again, a training with --resume to go on from its last checkpoint.'
)


def local_rank(launcher: str) -> int:
    """The number of this process among those of its machine.

    Args:
        launcher: ``pytorch`` or ``slurm``.

    Raises:
        UserError: If the launcher did not start this process.
    """
    missing = [name for name in _LAUNCHERS[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher}',
            f'{missing[0]} is not set, so the launcher did not start this process',
            f'start it with {_STARTED_BY[launcher]}, or leave --launcher away',
        )
    return int(os.environ['SLURM_LOCALID' if launcher == 'slurm' else 'LOCAL_RANK'])


@functools.cache
def end_workers_with_this_process() -> None:
    """From now on data workers end at once when this process ends, however it does (on Linux).

    One that is killed cannot end its workers. They look for it themselves, but not while they wait for
    somebody to read what they loaded: such a one stays for ever, and with it the connections to the other
    ranks, which then learn of nothing before their timeout.
    """
    if sys.platform == 'linux':
        prctl, set_signal_of_parents_end = ctypes.CDLL(None).prctl, 1
        os.register_at_fork(after_in_child=lambda: prctl(set_signal_of_parents_end, signal.SIGKILL))


def start(launcher: str, env_cfg: dict[str, Any]) -> None:
    """Brings the processes of a launcher together, earlier than mmengine's runner, which then does not.

    Args:
        launcher: ``pytorch`` or ``slurm``.
        env_cfg: The config's ``env_cfg``; the ``timeout`` of its ``dist_cfg`` is in seconds.

    Raises:
        UserError: If ``dist_cfg`` has settings that cannot be, or not all processes come.
    """
    signal.signal(signal.SIGTERM, _stop)
    # Before init_dist, as in mmengine's runner: it would settle on another way to start data workers.
    set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
    dist_cfg = env_cfg.get('dist_cfg', {})
    try:
        if get_device() == 'cpu':
            # Set just now, where nobody else did: too late for torch to see by itself.
            # OpenMP takes a list, for nested levels.
            torch.set_num_threads(int(os.environ['OMP_NUM_THREADS'].partition(',')[0]))
            with _no_device(launcher):
                init_dist(launcher, **dict(dist_cfg, backend='gloo'))
        else:
            init_dist(launcher, **dist_cfg)
    except TypeError as error:
        raise UserError(f'env_cfg.dist_cfg: not settings of a process group ({error}).') from error
    except RuntimeError as error:
        if not (fault := _fault(error)):
            raise
        raise UserError(
            f'--launcher {launcher}',
            f'the processes did not all come together ({fault})',
            'look for what another one says, and whether they reach MASTER_ADDR and MASTER_PORT',
        ) from error


@contextmanager
def _no_device(launcher: str) -> Iterator[None]:
    """Has ``init_dist`` choose no CUDA device, which ``torch.cuda.set_device`` does for negative numbers."""
    name = 'SLURM_LOCALID' if launcher == 'slurm' else 'LOCAL_RANK'
    number = os.environ.get(name, '0')
    os.environ[name] = '-1'
    try:
        yield
    finally:
        os.environ[name] = os.environ['LOCAL_RANK'] = number


def _stop(*_: Any) -> None:
    # At once: torchrun ends the data workers as well, which torch would raise as a failure of theirs.
    sentence = (
        f'error: {_this_rank()} is told to end (SIGTERM), as by a launcher after another one failed, or by a '
        f'scheduler; {_ADVICE}'
    )
    os.write(2, f'{sentence}\n'.encode())
    os._exit(128 + signal.SIGTERM)


def lost_contact(error: RuntimeError) -> str | None:
    """A sentence for an error that another process's end or standstill caused, None for any other.

    Args:
        error: What torch raised.
    """
    if not (fault := _fault(error)):
        return None
    other = f'rank {1 - get_rank()}' if get_world_size() == 2 else 'another one'
    return f'{_this_rank()} lost contact with {other}, which ended or hangs ({fault}); {_ADVICE}'


def _this_rank() -> str:
    return f'rank {get_rank()} of {get_world_size()}'


def _fault(error: RuntimeError) -> str | None:
    if isinstance(error, torch.distributed.DistNetworkError | torch.distributed.DistStoreError):
        return first_line(error).rstrip('.')
    gloo = _GLOO_ERROR.search(str(error))
    return gloo and gloo[1]


def warn_of_other_batch(meta: dict[str, Any], cfg: Config) -> None:
    """Says where a run goes on from a checkpoint that was trained with another batch over all processes.

    Args:
        meta: The checkpoint's ``meta``, with ``processes`` and with ``batch_size``, that of each; without
            them nothing is said.
        cfg: The config of the run.

    Raises:
        UserError: If the schedule was made for the older run's iterations an epoch, and would end wrong.
    """
    if not {'processes', 'batch_size'} <= meta.keys():
        return
    processes, batch_size = get_world_size(), cfg.train_dataloader.batch_size
    before = meta['processes'] * meta['batch_size']
    if processes * batch_size == before:
        return
    told = (
        f'--resume: the checkpoint was trained with batches of {before} ({meta["processes"]} processes x '
        f'{meta["batch_size"]}), this run has {processes * batch_size} ({processes} x {batch_size})'
    )
    cure = f'--cfg-options train_dataloader.batch_size={before // processes} goes on as before'
    if before % processes:
        cure = f'a number of processes that divides {before} can go on as before'
    # mmengine takes the schedule from the checkpoint, with the older epochs' iterations.
    if 'max_epochs' in cfg.train_cfg and any(
        part.get('convert_to_iter_based') for _, part in walk(cfg.get('param_scheduler') or [])
    ):
        raise UserError(f'{told}, and its schedule would not end with the last epoch; {cure}.')
    print_log(
        f'{told}; the learning rate stays as it was for the older batch; {cure}.',
        logger='current',
        level=logging.WARNING,
    )


def check_same_length(name: str, length: int) -> None:
    """Raises unless all processes see as much data: else they would share it out differently, and hang.

    Args:
        name: Of the data loader, for the message.
        length: Number of images that this process sees.

    Raises:
        UserError: Naming the numbers of the processes.
    """
    lengths = all_gather_object(length)
    if len(set(lengths)) > 1:
        raise UserError(
            name,
            f'the processes see {", ".join(map(str, lengths))} images',
            'give every machine the same data (tools/check_data.py on each of them)',
        )


def use_gloo(cfg: Config) -> None:
    """Sets a config to run in several processes on CPUs.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain; it is changed.
    """
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    default = dict(
        type='mmiformer.engine.distributed.CPUDistributedDataParallel',
        broadcast_buffers=False,  # This and the next as mmengine has them without a model_wrapper_cfg.
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = default | (cfg.get('model_wrapper_cfg') or {})


class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper around a model on the CPU: SyncBN becomes BN, and the layout channels-last.

    Args:
        module: The model.
        device_ids: Left aside: the runner gives a GPU's number here.
        kwargs: Arguments of ``MMDistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        module = revert_sync_batchnorm(module)
        prepare_for_cpu(module)  # Not later: the buckets of gradients are laid out as the weights are now.
        super().__init__(module, **kwargs)
        print_log(
            f'torch {torch.__version__} finds no GPU: {get_world_size()} processes run on CPUs over gloo.',
            logger='current',
        )
