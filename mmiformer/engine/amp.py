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

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Adds autocast to the context of the forward pass."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield
