"""What is trained, and what a training step needs."""

import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

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
    cfg, dataset = runner.cfg, runner.train_dataloader.dataset
    backbone = cfg.model.get('backbone') or {}
    kind, arch = backbone.get('type') or 'no backbone', backbone.get('arch')
    network = getattr(kind, '__name__', kind) + (f' {arch}' if isinstance(arch, str) else '')
    classes = dataset.metainfo.get('classes') or ()
    names = ', '.join([*map(str, classes[:8]), *(['...'] if len(classes) > 8 else [])])
    images, evaluation = f'{len(dataset)} training', 'no evaluation'
    epochs = f'{runner.max_epochs} epochs, ' if 'max_epochs' in cfg.train_cfg else ''
    if runner.val_loop is not None:
        images += f' and {len(runner.val_dataloader.dataset)} validation'
        evaluation = (
            f'evaluation every {runner.train_loop.val_interval} {"epochs" if epochs else "iterations"}'
        )
    batch = cfg.train_dataloader.batch_size * runner.world_size
    schedule = f'{epochs}{runner.max_iters} iterations of {batch} images; {evaluation}; seed {runner.seed}'
    lines = [
        f'model     {getattr(cfg.model.type, "__name__", cfg.model.type)} with {network}',
        f'data      {images} images; {len(classes)} classes: {names}',
        f'schedule  {schedule}',
        f'work dir  {runner.work_dir}',
    ]
    return '\n'.join(['What is trained:', *lines])
