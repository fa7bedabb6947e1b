"""Stopping at the first NaN or infinity, with the name of the module that it came from."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mmiformer.engine.seeding import seed_step
from mmiformer.utils.errors import UserError


@HOOKS.register_module(name=['CheckFiniteHook', 'FiniteHook'])  # The latter is its former name.
class CheckFiniteHook(Hook):
    """Checks the losses of each step before the backward pass, and the gradients before the optimiser step.

    The weights and checkpoints therefore stay good. When a loss is not finite, the forward pass is repeated
    to find the first module that returns NaN or infinity. The processes of a distributed run stop together,
    because their losses are summed. Checkpoints are checked before they are saved. Gradients that overflow
    under ``--amp`` are skipped by its scaler and are no error.

    Args:
        stop: Whether to raise; otherwise the hook logs a warning for the first bad step and for each bad
            checkpoint. Defaults to True.

    Raises:
        UserError: At the first number that is not finite, if ``stop``.
    """

    priority = 'LOW'  # EMAHook adds its weights to a checkpoint first.

    def __init__(self, stop: bool = True) -> None:
        self.stop = stop
        self._warned = False
        self._images = ''  # Of the current batch, as the end of a message.

    def before_train(self, runner: Runner) -> None:
        """Adds the checks to the model and its optimisers."""
        self._runner = runner
        self._model: BaseModel = runner.model.module if is_model_wrapper(runner.model) else runner.model
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        self._handles = [
            self._model.register_forward_hook(self._check_losses, with_kwargs=True),
            *(w.optimizer.register_step_pre_hook(self._check_gradients) for w in wrappers),
        ]

    def after_train(self, runner: Runner) -> None:
        """Removes the checks."""
        for handle in self._handles:
            handle.remove()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Checks all tensors of a checkpoint."""
        if not _all_finite(checkpoint):
            weights = checkpoint['state_dict']
            bad = [name for name, value in weights.items() if not _all_finite(value)]
            self._report(f'{bad[0] if bad else "the state of the optimiser"} in the checkpoint is not finite')

    def _check_losses(self, model: nn.Module, args: Any, kwargs: dict[str, Any], losses: Any) -> None:
        if kwargs.get('mode') != 'loss' or self._warned:
            return
        samples = kwargs.get('data_samples')
        paths = [s.get('img_path') for s in samples if hasattr(s, 'get')] if isinstance(samples, list) else []
        images = [str(path) for path in paths if path]
        self._images = f' (images {", ".join(images[:4])}{" ..." if images[4:] else ""})' if images else ''
        with torch.no_grad():
            parts = {
                name: sum(part.float().mean() for part in (value if isinstance(value, list) else [value]))
                for name, value in losses.items()
                if 'loss' in name  # As BaseModel.parse_losses picks them.
            }
            total = sum(parts.values(), torch.zeros(()))
            all_reduce(total)
        if not _all_finite(total):
            self._warned = True
            bad = [f'{name} is {float(part)}' for name, part in parts.items() if not _all_finite(part)]
            problem = ', '.join(bad) or 'a loss of another process is not finite'
            self._report(f'{problem}{self._origin(args, kwargs)}{self._images}')

    def _check_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if hasattr(optimizer, 'found_inf'):  # Set by a loss scaler, for a fused optimiser to skip the step.
            return
        parameters = [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        if self._warned or nn.utils.get_total_norm([p.grad for p in parameters]).isfinite():
            return
        bad = [name for name, p in self._model.named_parameters() if not _all_finite(p.grad)]
        if bad:  # Otherwise the norm alone overflows.
            self._warned = True
            problem = f'gradients of {len(bad)} parameters are not finite, last in {bad[-1]}'
            self._report(problem + self._images)

    def _origin(self, args: Any, kwargs: dict[str, Any]) -> str:
        seed_step(self._runner)
        # All processes do this, since modules such as SyncBN exchange values.
        module = _first_nonfinite_module(self._model, args, kwargs)
        if not _all_finite((args, kwargs)):
            return ', because the batch itself is not finite'
        if module is None:
            return ', but every module was finite when the step was repeated'
        name = next(name for name, other in self._model.named_modules() if other is module)
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        bad = next((f', whose {key} is not finite' for key, tensor in own if not _all_finite(tensor)), '')
        return f', first in {name or "the model"} ({type(module).__name__}){bad}'

    def _report(self, problem: str) -> None:
        runner = self._runner
        if self.stop:
            raise UserError(
                f'step {runner.iter + 1}',
                problem,
                f'lower the learning rate or check the images, then continue from the last checkpoint in '
                f'{runner.work_dir} with --resume, or ignore this with --allow-nan',
            )
        runner.logger.warning(f'step {runner.iter + 1}: {problem}; training continues (--allow-nan).')


def _first_nonfinite_module(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> nn.Module | None:
    """Repeats a forward pass to find the innermost module with finite inputs and an output that is not."""
    finite_inputs: list[bool] = []  # Of the modules that are running.
    found: list[nn.Module] = []

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        finite_inputs.append(_all_finite((args, kwargs)))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if finite_inputs.pop() and not _all_finite(output):
            found.append(module)

    handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in model.modules()]
    handles += [module.register_forward_hook(leave) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # BatchNorm changes them.
    try:
        with torch.no_grad():
            torch.func.functional_call(model, buffers, args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _all_finite(value: Any) -> bool:
    """Whether the tensors in a batch, a list of losses or a checkpoint hold no NaN and no infinity."""
    # The sum takes a tenth of the time; of large numbers it may overflow.
    return all(bool(t.sum().isfinite()) or bool(t.isfinite().all()) for t in _tensors_in(value))


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | BaseDataElement | list | tuple):
        for part in value if isinstance(value, list | tuple) else list(value.values()):
            yield from _tensors_in(part)
    elif isinstance(getattr(value, 'tensor', None), torch.Tensor):  # mmdet's boxes.
        yield value.tensor
