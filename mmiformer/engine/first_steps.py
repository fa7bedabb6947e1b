"""What a training step needs, said after the first ones."""

import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmiformer.utils.memory import SavedBytes, peak_memory, saved_bytes


class FirstStepsHook(Hook):
    """Logs parameters and memory after the first step, and images a second after ten more.

    It changes neither results nor random numbers.
    """

    priority = 'VERY_LOW'  # The steps include the work of other hooks.
    timed = 10  # Steps, after the first, which also allocates memory and compiles.
    _start = 0.0  # A resumed run may evaluate before it trains.

    def before_train(self, runner: Runner) -> None:
        """Counts what the first forward pass stores."""
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
