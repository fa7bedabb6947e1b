"""Training: atomic checkpoints, resuming, checks for NaN, seeding, several processes."""

from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.registry import HOOKS

from mmiformer.engine.amp import CPUAmpOptimWrapper
from mmiformer.engine.checkpointing import AtomicCheckpointHook
from mmiformer.engine.early_stopping import ResumableEarlyStoppingHook
from mmiformer.engine.finite import CheckFiniteHook
from mmiformer.engine.seeding import reseed_each_step
from mmiformer.engine.validation_loss import ValidationLossHook

__all__ = [
    'AtomicCheckpointHook',
    'CPUAmpOptimWrapper',
    'CheckFiniteHook',
    'ResumableEarlyStoppingHook',
    'ValidationLossHook',
    'prepare_training',
    'reseed_each_step',
]


_OURS = {CheckpointHook: 'AtomicCheckpointHook', EarlyStoppingHook: 'ResumableEarlyStoppingHook'}


def prepare_training(cfg: Config, allow_nan: bool = False) -> None:
    """Adds atomic checkpoints, checks for NaN, seeds for each step and torch's fused AdamW.

    Early stopping becomes one that can be resumed. Settings of the config are kept; calling it twice is
    harmless.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain; it is changed.
        allow_nan: Whether to continue after numbers that are not finite. Defaults to False.
    """
    reseed_each_step(cfg)
    cfg.default_hooks = cfg.get('default_hooks') or ConfigDict()
    cfg.default_hooks.setdefault('checkpoint', ConfigDict(type='CheckpointHook', interval=1))
    for hook in (*cfg.default_hooks.values(), *(cfg.get('custom_hooks') or ())):
        if isinstance(hook, dict) and 'type' in hook:
            kind = hook['type']
            hook['type'] = _OURS.get(kind if isinstance(kind, type) else HOOKS.get(kind), kind)
    finite = cfg.default_hooks.setdefault('finite', ConfigDict(type='CheckFiniteHook'))
    if allow_nan and finite is not None:
        finite.stop = False
    optimizer = cfg.get('optim_wrapper', {}).get('optimizer', {})
    if optimizer.get('type') == 'AdamW' and not (optimizer.get('foreach') or optimizer.get('differentiable')):
        optimizer.setdefault('fused', True)
