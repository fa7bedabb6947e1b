"""Mask R-CNN trained on mmcv's compiled operators and on ours, from the same weights and random numbers."""

import copy
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import CONFIG
from mmengine.dataset import pseudo_collate
from torch import nn

from mmiformer.apis.cli import load_config
from mmiformer.apis.inference import bare_model
from mmiformer.datasets.checks import build_datasets
from mmiformer.ops.extension import TorchExtension
from mmiformer.ops.layers import use_torch_roi_align

OURS = TorchExtension('for comparison')


@contextmanager
def operators(extension) -> Iterator[None]:
    """Has mmcv's layers use an extension."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('nms', 'roi_align'):
            patch.setattr(sys.modules[f'mmcv.ops.{name}'], 'ext_module', extension)
        yield


@pytest.fixture
def detector(root, at_work):
    """A small Mask R-CNN with BatchNorm on settled statistics, as published, and its images by number."""
    cfg = load_config(str(root / CONFIG), demo=True)
    cfg.train_dataloader.dataset.pipeline[2].scale = (64, 64)
    torch.manual_seed(0)
    model = bare_model(cfg)
    model._dump_init_info = lambda *_: None
    model.init_weights()
    dataset = build_datasets(cfg, 'train')[0]

    def batch(step: int) -> dict:
        np.random.seed(step)  # For the flips.
        return pseudo_collate([dataset[step % len(dataset)]])

    images = [model.data_preprocessor(batch(100 + i), training=True)['inputs'] for i in range(4)]
    torch.optim.swa_utils.update_bn(images, model.backbone)
    model.backbone.norm_eval = True
    return model.train(), batch


def losses_of(model: nn.Module, batch: dict, seed: int) -> dict[str, torch.Tensor]:
    """The losses of a step, with RoIs sampled by the seed, in the type of the model."""
    data = model.data_preprocessor(batch, training=True)
    dtype = next(model.parameters()).dtype
    for sample in data['data_samples']:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.to(dtype)
    torch.manual_seed(seed)
    return model.parse_losses(model.loss(data['inputs'].to(dtype), data['data_samples']))[1]


def train(model: nn.Module, batches, extension, steps: int, optimizer) -> list[float]:
    """Trains a model in place; returns its losses."""
    losses = []
    with operators(extension):
        for step in range(steps):
            loss = losses_of(model, batches(step), step)['loss']
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5)  # As the demo does.
            optimizer.step()
            losses.append(loss.item())
    return losses


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


Run = tuple[list[float], nn.Module]


def distance(run: Run, other: Run) -> tuple[float, float]:
    """Root mean square of the ratios of two runs' losses, as logarithms; relative difference of weights."""
    apart = torch.tensor(run[0]).log() - torch.tensor(other[0]).log()
    ours, theirs = weights(run[1]), weights(other[1])
    return apart.square().mean().sqrt().item(), ((ours - theirs).norm() / theirs.norm()).item()


def test_losses_and_gradients_of_a_step_are_equal(compiled, detector):
    model, batches = detector
    results = []
    # Without compiled operators; with them, as the tools prepare a model; and as mmcv has them.
    for extension, prepare in ((OURS, None), (compiled, use_torch_roi_align), (compiled, None)):
        trained = copy.deepcopy(model)
        if prepare:
            prepare(trained)
        with operators(extension):
            losses = losses_of(trained, batches(0), 0)
            losses['loss'].backward()
        results.append((losses, [p.grad for p in trained.parameters()]))
    *ours, (their_losses, their_grads) = results
    largest = max(grad.abs().max() for grad in their_grads)
    for losses, grads in ours:
        for name, loss in their_losses.items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-5, atol=1e-6)
        for a, b in zip(grads, their_grads, strict=True):
            # Some are zero but for rounding, such as that of the bias of the keys in attention.
            assert (a - b).abs().max() <= 1e-5 * b.abs().max() + 1e-7 * largest


def test_twenty_steps_in_double_precision_are_equal(compiled, detector):
    """mmcv's compiled NMS takes float32 alone, so both get its boxes in that."""
    model, batches = detector
    model.double()
    ends = []
    for extension in (OURS, compiled):
        trained = copy.deepcopy(model)
        single = SimpleNamespace(
            nms=lambda boxes, scores, e=extension, **options: e.nms(boxes.float(), scores.float(), **options),
            roi_align_forward=extension.roi_align_forward,
            roi_align_backward=extension.roi_align_backward,
        )
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-4, momentum=0.9)
        losses = train(trained, batches, single, 20, optimizer)
        ends.append((torch.tensor(losses, dtype=torch.double), weights(trained)))
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_run_goes_no_farther_than_by_one_rounding(compiled, detector, request):
    """Float32 training is chaotic (RoI sampling, NMS, Adam): any rounding grows into another run."""
    steps = request.config.getoption('operator_steps')
    if not steps:
        pytest.skip('a long run: --operator-steps 200')
    model, batches = detector
    runs = []
    # One run apart from another tells little of how far chance alone takes them: ten pairs of five runs.
    roundings = (
        (compiled, 0, 1),
        (OURS, 0, 1),
        *((compiled, side, step) for side in (1, -1) for step in (1, 2)),
    )
    for extension, side, step in roundings:
        trained = copy.deepcopy(model)
        with torch.no_grad():  # In the first number of each weight, or of each second one.
            for weight in list(trained.parameters())[::step]:
                first = weight.view(-1)[:1]
                first.copy_(torch.nextafter(first, first + side))
        # Without warm-up, the demo's 5e-4 lets a loss explode.
        optimizer = torch.optim.AdamW(trained.parameters(), lr=5e-5, weight_decay=0.05)
        runs.append((train(trained, batches, extension, steps, optimizer), trained))
    reference, ours, *rounded = runs
    apart = distance(ours, reference)
    print(f'\n{steps} steps, compiled against ours: losses {apart[0]:.3g}, weights {apart[1]:.3g}')
    bounds = [distance(*pair) for pair in itertools.combinations((reference, *rounded), 2)]
    for losses, moved in bounds:
        print(f'compiled against itself from one rounding away: losses {losses:.3g}, weights {moved:.3g}')
    for ours_apart, *theirs_apart in zip(apart, *bounds, strict=True):
        assert ours_apart <= max(theirs_apart)
