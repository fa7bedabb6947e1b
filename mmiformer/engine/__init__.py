"""Training beyond mmengine's loop: resuming, stopping at NaN, seeding, several processes, a record."""

from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from mmiformer.engine.checkpointing import AtomicCheckpointHook
from mmiformer.engine.finite import CheckFiniteHook
from mmiformer.engine.seeding import reseed_each_step

__all__ = ['CheckFiniteHook', 'AtomicCheckpointHook', 'prepare_training', 'reseed_each_step']

_NO_HOOK = 'mmengine.hooks.Hook'  # It does nothing.


def prepare_training(cfg: Config, allow_nan: bool = False) -> None:
    """Adds atomic checkpoints, checks for NaN and seeding by the step to a config; twice does no harm.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain; it is changed.
        allow_nan: Whether to go on after numbers that are not finite. Defaults to False.
    """
    reseed_each_step(cfg)
    if not cfg.get('default_hooks'):
        cfg.default_hooks = ConfigDict()
    hooks = cfg.default_hooks
    checkpoint = hooks.setdefault('checkpoint', ConfigDict(type='CheckpointHook', interval=1))
    if checkpoint is not None:
        kind = checkpoint.type if isinstance(checkpoint.type, type) else HOOKS.get(checkpoint.type)
        if kind is CheckpointHook:
            checkpoint.type = 'AtomicCheckpointHook'
    finite = hooks.setdefault('finite', ConfigDict(type='CheckFiniteHook'))
    if finite is None:
        # Taken out, it would be back where config.py is run again, and mmengine knows None for its own only.
        hooks.finite = ConfigDict(type=_NO_HOOK)
    elif allow_nan and finite.type != _NO_HOOK:
        finite.stop = False
