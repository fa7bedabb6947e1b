"""Mixed precision on CPUs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Runs the forward pass under ``torch.autocast`` in bfloat16, whose range needs no loss scaling.

    mmengine's ``AmpOptimWrapper`` refuses to run on CPUs. Warns if the CPU has no units for bfloat16.

    Args:
        kwargs: Arguments of ``OptimWrapper``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Older releases of torch do not tell.
        if hasattr(torch.cpu, 'get_capabilities') and not any(
            on for name, on in torch.cpu.get_capabilities().items() if name.endswith('bf16')
        ):
            print_log(
                '--amp: this CPU has no units for bfloat16, so training takes more time, not less.',
                logger='current',
                level=logging.WARNING,
            )

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Also makes mmdet's RoI extractors compute in float32.

        They round boxes to the type of the maps; in bfloat16, boxes near pixel 1000 would move by up to 2.
        """
        super().initialize_count_status(model, cur_iter, max_iters)
        for module in model.modules():
            if hasattr(module, 'roi_layers'):
                module.register_forward_pre_hook(_float_maps)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Adds autocast to the context of the forward pass."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def _float_maps(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    maps, *others = args
    return tuple(x.float() for x in maps), *others
