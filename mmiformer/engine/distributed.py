"""Several processes: mmengine's way, made to work on machines without a GPU as well.

mmengine asks for CUDA in three places, whatever the backend is: ``init_dist`` sets a CUDA device, the runner
passes that device to the model's wrapper, and torch's SyncBatchNorm has no CPU kernels. On CPUs the processes
therefore use gloo, a wrapper without a device, and BatchNorm.
"""

import ctypes
import functools
import os
import re
import signal
import sys
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_world_size, init_dist
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn

from mmiformer.utils.cpu import prepare_for_cpu
from mmiformer.utils.errors import UserError, first_line

# Variables that each launcher sets: number of the process among all, and among those of its machine.
_RANK_VARIABLES = {'pytorch': ('RANK', 'LOCAL_RANK'), 'slurm': ('SLURM_PROCID', 'SLURM_LOCALID')}

# Gloo's errors are RuntimeErrors: "[.../gloo/transport/tcp/pair.cc:553] Connection closed by peer
# [10.0.0.2]:27013. This is typically caused by ...".
_GLOO_ERROR = re.compile(r'gloo/\S+:\d+\] (.+?)(\. |\.?$)', re.M)


def local_rank(launcher: str) -> int:
    """Returns the number of this process among those of its machine.

    Args:
        launcher: ``pytorch`` or ``slurm``.

    Raises:
        UserError: If the launcher did not start this process.
    """
    rank, local = _RANK_VARIABLES[launcher]
    if rank not in os.environ:
        raise UserError(
            f'--launcher {launcher}',
            f'{rank} is not set, so the launcher did not start this process',
            'use torchrun or srun, as in tools/dist_train.sh and tools/slurm_train.sh, or remove --launcher',
        )
    return int(os.environ[local])


@functools.cache
def end_workers_with_this_process() -> None:
    """Makes data workers end when this process ends, however it does (on Linux).

    Workers of a killed process that are blocked on a full pipe would otherwise stay and keep its connections
    open, so that the other ranks wait for the whole timeout.
    """
    if sys.platform == 'linux':
        prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
        os.register_at_fork(after_in_child=lambda: prctl(set_parent_death_signal, signal.SIGKILL))


def start(launcher: str, env_cfg: dict[str, Any]) -> None:
    """Initialises the process group earlier than mmengine's runner, which then skips it.

    Args:
        launcher: ``pytorch`` or ``slurm``.
        env_cfg: The config's ``env_cfg``; the ``timeout`` of its ``dist_cfg`` is in seconds.
    """
    # As in mmengine's runner: init_dist would start data workers with spawn.
    set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
    dist_cfg = env_cfg.get('dist_cfg', {})
    if get_device() == 'cpu':
        name = _RANK_VARIABLES[launcher][1]
        number = os.environ[name]
        os.environ[name] = '-1'  # torch.cuda.set_device, which init_dist calls, ignores negative numbers.
        init_dist(launcher, **dict(dist_cfg, backend='gloo'))
        os.environ[name] = os.environ['LOCAL_RANK'] = number
    else:
        init_dist(launcher, **dist_cfg)


def lost_contact(error: RuntimeError) -> str | None:
    """Returns a message for an error that another process's failure caused, None for any other error."""
    if isinstance(error, torch.distributed.DistNetworkError | torch.distributed.DistStoreError):
        reason = first_line(error).rstrip('.')
    elif match := _GLOO_ERROR.search(str(error)):
        reason = match[1]
    else:
        return None
    return (
        f'rank {os.environ.get("RANK")} of {os.environ.get("WORLD_SIZE")}: lost contact with another process '
        f'that ended or hangs ({reason}); look for the first error of any process (a killed one prints '
        'none), then start all of them again, a training with --resume.'
    )


def check_same_length(name: str, length: int) -> None:
    """Raises if the processes see different numbers of images, since they would wait for each other forever.

    Args:
        name: Config key of the data loader.
        length: Number of images that this process sees.

    Raises:
        UserError: With the numbers of all processes.
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
    """mmengine's wrapper for a model on the CPU: SyncBN becomes BN, and the layout channels-last.

    Args:
        module: The model.
        device_ids: Ignored: the runner passes a GPU's number.
        kwargs: Arguments of ``MMDistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        module = revert_sync_batchnorm(module)
        prepare_for_cpu(module)  # Before DDP lays its gradient buckets out like the weights.
        super().__init__(module, **kwargs)
        print_log(
            f'torch {torch.__version__} finds no GPU: {get_world_size()} processes run on CPUs over gloo, '
            'and SyncBN becomes BN.',
            logger='current',
        )
