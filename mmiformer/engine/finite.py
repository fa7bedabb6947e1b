"""Stopping at the first NaN or infinity, with the name of the module that it came from."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmiformer.engine.nan_source import all_finite, find_origin, loss_parts, rng_state, tensors_in
from mmiformer.utils.errors import UserError, first_line


@HOOKS.register_module()
class CheckFiniteHook(Hook):
    """Checks every step's losses before they are used, and the gradients before the optimiser uses them.

    So the weights and the checkpoints stay good. Where something is not finite, the step is done again,
    with the same random numbers, to find the module. Weights are looked at once more before they are
    saved. Gradients that overflow under ``--amp`` never get here: its scaler leaves their step out.

    Several processes find it out together: the losses of a step are summed over them.

    Args:
        stop: False only warns: once of steps, once of checkpoints. Defaults to True.

    Raises:
        UserError: At the first number that is not finite, if ``stop``.
    """

    priority = 'LOW'  # What is saved is looked at when the hook of averaged weights has added its own.

    def __init__(self, stop: bool = True) -> None:
        self.stop = stop
        self._told = False  # The same in all processes: whether they sum their losses depends on it.
        self._told_in_saving = False  # Which rank 0 does alone.
        self._call: tuple[Any, dict[str, Any], Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Watches the model and its optimisers."""
        self._runner = runner
        self._model: BaseModel = runner.model.module if is_model_wrapper(runner.model) else runner.model
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        self._handles = [
            self._model.register_forward_pre_hook(self._keep, with_kwargs=True),
            self._model.register_forward_hook(self._check_losses, with_kwargs=True),
            *(w.optimizer.register_step_pre_hook(self._check_gradients) for w in wrappers),
        ]

    def after_train(self, runner: Runner) -> None:
        """Lets go of them."""
        for handle in self._handles:
            handle.remove()

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Lets go of the batch."""
        self._call = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Checks all that a checkpoint saves: no run could resume from what is not finite."""
        told = self._told or self._told_in_saving
        if not told and not all(map(all_finite, tensors_in(checkpoint))):
            self._told_in_saving = True
            weights = checkpoint['state_dict']
            bad = [name for name, value in weights.items() if not all_finite(value)]
            self._tell(
                f'{bad[0] if bad else "the state of the optimiser"} is not finite, and is '
                f'{"not to be saved" if self.stop else "saved all the same"}'
            )

    def _keep(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get('mode') == 'loss' and not self._told:
            self._call = (args, kwargs, rng_state())

    def _check_losses(self, model: nn.Module, args: Any, kwargs: dict[str, Any], losses: Any) -> None:
        if kwargs.get('mode') != 'loss' or self._told:
            return
        parts = {name: part.detach() for name, part in loss_parts(losses).items()}
        total = sum(parts.values(), torch.zeros(()))
        all_reduce(total)
        if not all_finite(total):
            bad = [f'{name} is {float(part)}' for name, part in parts.items() if not all_finite(part)]
            self._tell(f'{", ".join(bad) or "a loss of another process is not finite"}{self._origin()}')

    def _check_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._told:
            return
        gradients = [
            p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None
        ]
        if not nn.utils.get_total_norm(gradients).isfinite() and not all(map(all_finite, gradients)):
            self._tell(f'gradients are not finite{self._origin(backward=True)}')

    def _origin(self, backward: bool = False) -> str:
        """Where it came from, as the end of a sentence."""
        self._told = True  # What is done again is not looked at.
        if self._call is None:  # A train_step of the model's own, or one that computes no loss.
            return ''
        args, kwargs, chance = self._call
        samples = kwargs.get('data_samples')
        paths = [s.get('img_path') for s in samples if hasattr(s, 'get')] if isinstance(samples, list) else []
        images = [str(path) for path in paths if path]
        of = f' (images {", ".join(images[:4])}{" ..." if images[4:] else ""})' if images else ''
        try:
            # Also of a bad batch: the other processes do it, and their modules may wait for this one's.
            found = find_origin(self._model, args, kwargs, chance, backward)
        except Exception as error:  # As of reentrant checkpointing of activations.
            return f', and the module could not be found ({first_line(error)}){of}'
        if not all(map(all_finite, tensors_in((args, kwargs)))):
            return f', and so is the batch itself{of}'
        if found is None:
            return f', but all was when the last batch was done again{of}'
        where, module = found
        name = next(name for name, other in self._model.named_modules() if other is module)
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        bad = next((f', whose {key} is not' for key, tensor in own if not all_finite(tensor)), '')
        way = ' on the way back' if backward else ''
        return f', first {where} {name or "the model"} ({type(module).__name__}){way}{bad}{of}'

    def _tell(self, what: str) -> None:
        runner = self._runner
        text = f'step {runner.iter + 1}: {what}'
        if self.stop:
            raise UserError(
                f'{text}; lower the learning rate, or look at the images, and go on with --resume from the '
                f'last checkpoint in {runner.work_dir}, or regardless with --allow-nan.'
            )
        runner.logger.warning(f'{text}; training goes on, and this is said once (--allow-nan).')
