"""Where in a training step numbers stop being finite."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn

_NEVER = float('inf')


def find_origin(
    model: BaseModel, args: Any, kwargs: dict[str, Any], chance: Any, backward: bool
) -> tuple[str, nn.Module] | None:
    """Does a step again to find the first module that makes something not finite of what is.

    Args:
        model: Its parameters, their gradients and its buffers stay as they are.
        args: Of its forward pass.
        kwargs: Of its forward pass.
        chance: State of the random numbers before that, of :func:`rng_state`.
        backward: Whether to look for gradients.

    Returns:
        ``'in'`` or, where gradients come from code that is no module's, ``'behind'``, and the module; None
        if this time everything is finite.
    """
    visits: list[_Visit] = []  # In the order of their ends, inner ones before outer ones.
    open_visits: list[_Visit] = []
    time = itertools.count()

    def watch(visit: _Visit, side: str, tensors: list[torch.Tensor]) -> None:
        def note(gradient: torch.Tensor) -> None:
            if not all_finite(gradient):
                setattr(visit, side, min(getattr(visit, side), next(time)))

        for tensor in tensors:
            if backward and tensor.requires_grad:
                tensor.register_hook(note)

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        tensors = list(tensors_in((args, kwargs)))
        visit = _Visit(module, len(visits), all(map(all_finite, tensors)))
        watch(visit, 'bad_input_gradient', tensors)
        open_visits.append(visit)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        visit = open_visits.pop()
        tensors = list(tensors_in(output))
        visit.finite_output = all(map(all_finite, tensors))
        watch(visit, 'bad_output_gradient', tensors)
        visits.append(visit)

    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in model.modules()]
    handles += [module.register_forward_hook(leave) for module in model.modules()]
    try:
        set_rng_state(chance)
        losses = torch.func.functional_call(model, buffers, args, kwargs)
        if not backward:
            made = [visit for visit in visits if visit.finite_input and not visit.finite_output]
            return ('in', made[0].module) if made else None
        gradients = _gradients(model, losses)
    finally:
        for handle in handles:
            handle.remove()

    def bad_weights(visit: _Visit) -> bool:
        return any(not all_finite(gradients[p]) for p in visit.module.parameters(recurse=False))

    def makes(visit: _Visit) -> bool:
        bad = visit.bad_input_gradient < _NEVER or bad_weights(visit)
        return bad and visit.bad_output_gradient == _NEVER

    made = [v for i, v in enumerate(visits) if makes(v) and not any(map(makes, visits[v.begin : i]))]
    if made:
        return 'in', min(made, key=lambda visit: visit.bad_input_gradient).module
    got = [visit for visit in visits if visit.bad_output_gradient < _NEVER]
    return ('behind', min(got, key=lambda visit: visit.bad_output_gradient).module) if got else None


@dataclass
class _Visit:
    """A module's turn in a forward pass; when a gradient that is not finite came to its output and input.

    The turns of the modules within it stand before it in the list, from number ``begin`` on.
    """

    module: nn.Module
    begin: int
    finite_input: bool
    finite_output: bool = True
    bad_output_gradient: float = _NEVER
    bad_input_gradient: float = _NEVER


def _gradients(model: nn.Module, losses: dict[str, Any]) -> dict[nn.Parameter, torch.Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Not backward(): the wrapper of several processes would begin to exchange gradients.
    total = sum(loss_parts(losses).values(), torch.zeros(()))
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    zero = torch.zeros(())
    made = {p: zero if g is None else g for p, g in zip(parameters, found, strict=True)}
    return {p: made.get(p, zero) for p in model.parameters()}


def loss_parts(losses: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Scalars that mmengine's ``parse_losses`` adds up, by name.

    Args:
        losses: What a model returns for ``mode='loss'``.
    """
    return {
        name: sum(
            (part.float().mean() for part in (value if isinstance(value, (list, tuple)) else [value])),
            torch.zeros(()),
        )
        for name, value in losses.items()
        if 'loss' in name
    }


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity."""
    # The sum takes a tenth of the time; of large numbers it may overflow.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in what a forward pass takes or gives, those in data samples too."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, BaseDataElement):
        yield from tensors_in(value.values())
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(getattr(value, 'tensor', None), torch.Tensor):  # mmdet's boxes.
        yield value.tensor


def rng_state() -> tuple[Any, ...]:
    """States of Python's, numpy's and torch's random numbers, of the GPU in use too."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_rng_state(state: tuple[Any, ...]) -> None:
    """Puts the states of :func:`rng_state` back."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state(state[3])
