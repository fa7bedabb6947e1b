"""What is trained, and what a training step needs."""

import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmiformer.utils.memory import SavedBytes, peak_memory, saved_bytes


class FirstStepsHook(Hook):
    """Logs data and schedule at the start, memory after the first step, images a second after ten more.

    It changes neither results nor random numbers.
    """

    priority = 'VERY_LOW'  # The steps include the work of other hooks.
    timed = 10  # Steps, after the first, which also allocates memory and compiles.
    _start = 0.0  # A resumed run may evaluate before it trains.

    def before_train(self, runner: Runner) -> None:
        """Describes the run; counts what the first forward pass stores."""
        runner.logger.info(describe(runner))
        self._done = self._images = 0
        self._saved = SavedBytes()
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        counting = ExitStack()

        def enter(*_: Any) -> None:
            self._saved = counting.enter_context(saved_bytes(model))

        def leave(*_: Any) -> None:
            counting.close()
            for handle in handles:
                handle.remove()

        handles = model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True)

    def before_val(self, runner: Runner) -> None:
        """Stops the clock."""
        self._paused = time.perf_counter()

    def after_val(self, runner: Runner) -> None:
        """Starts it again."""
        self._start += time.perf_counter() - self._paused

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Logs."""
        self._done += 1
        images, log = len(data_batch['inputs']), runner.logger.info
        if self._done == 1:
            parameters = list(runner.model.parameters())
            total = sum(p.numel() for p in parameters) / 1e6
            trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
            saved, peak = (
                f'{b / 2**30:.2f} GiB' if b else 'unknown' for b in (self._saved.bytes, peak_memory())
            )
            log(
                f'A step of {images} images: {total:.1f} M parameters ({trained:.1f} M trained), '
                f'memory stored for the backward pass {saved}, in all {peak}.'
            )
            self._start = time.perf_counter()
        elif self._done <= self.timed + 1:
            self._images += images * runner.world_size
            if self._done == self.timed + 1:
                seconds = time.perf_counter() - self._start
                left = seconds / self.timed * (runner.max_iters - runner.iter - 1)
                rate, left = self._images / seconds, timedelta(seconds=round(left))
                log(f'{rate:.3g} images a second; {left} left, without evaluations.')


def describe(runner: Runner) -> str:
    """What a run trains on what, for how long, and where it writes; a line each."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    backbone, loader = getattr(model, 'backbone', None), runner.train_dataloader
    arch = getattr(backbone, 'arch', None)
    network = type(model).__name__ + (f' with {type(backbone).__name__}' if backbone is not None else '')
    classes = getattr(loader.dataset, 'metainfo', {}).get('classes') or ()
    names = ', '.join([*map(str, classes[:8]), *(['...'] if len(classes) > 8 else [])])
    images, evaluation = f'{len(loader.dataset)} training', 'no evaluation'
    epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
    if runner.val_loop is not None:
        images += f' and {len(runner.val_dataloader.dataset)} validation'
        evaluation = (
            f'evaluation every {runner.train_loop.val_interval} {"epochs" if epochs else "iterations"}'
        )
    batch = getattr(loader.batch_sampler, 'batch_size', 1) * runner.world_size
    length = f'{runner.max_epochs} epochs, ' if epochs else ''
    length += f'{runner.max_iters} iterations of {batch} images'
    lines = [
        f'model     {network}{f" {arch}" if isinstance(arch, str) else ""}',
        f'data      {images} images; {len(classes)} classes: {names}',
        f'schedule  {length}; {evaluation}; seed {runner.seed}',
        f'work dir  {runner.work_dir}',
    ]
    return '\n'.join(['What is trained:', *lines])
