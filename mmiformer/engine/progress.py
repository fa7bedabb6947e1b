"""A progress bar for trainings and evaluations on a terminal."""

import io
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

# mmengine's lines about iterations, and FirstStepsHook's about the rate, which the bar replaces.
_IN_THE_BAR = re.compile(r'(?:Iter|Epoch)\(\w+\).* eta: |\S+ images a second; ')


@contextmanager
def progress_bar(runner: Runner) -> Iterator[None]:
    """Shows a bar while the block trains or tests with a runner, if the output is a terminal.

    Log lines appear above the bar; those about iterations are in the log file alone. What evaluations print,
    as pycocotools' do, is not shown. In a file or a pipe nothing changes.
    """
    console = Console(file=sys.stdout)  # Also while prints are silenced.
    if not (is_main_process() and sys.stdout.isatty() and console.is_interactive):
        yield
        return
    columns = (
        TextColumn('{task.description:10}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[state]}'),
    )
    handlers = [handler for handler in runner.logger.handlers if type(handler) is logging.StreamHandler]
    # Without a thread that refreshes: a data worker that is forked meanwhile would inherit a held lock.
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        runner.register_hook(hook := _ProgressHook(bar))
        # rich's, which writes above the bar.
        streams = [handler.setStream(sys.stdout) for handler in handlers]
        for handler in handlers:
            handler.addFilter(_is_for_a_terminal)
        try:
            yield
        finally:
            hook.silence.close()
            for handler, stream in zip(handlers, streams, strict=True):
                handler.removeFilter(_is_for_a_terminal)
                handler.setStream(stream)


def _is_for_a_terminal(record: logging.LogRecord) -> bool:
    return not _IN_THE_BAR.match(record.getMessage())


class _ProgressHook(Hook):
    """Adds a line to a bar for the training, and one for an evaluation while it runs."""

    priority = 'LOWEST'  # After IterTimerHook.
    _shown = 0.0

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.silence = ExitStack()
        self._lines: dict[str, TaskID] = {}

    def before_train(self, runner: Runner) -> None:
        self._lines['train'] = self.bar.add_task('training', total=runner.max_iters, state='')

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train':
            loader = runner.val_dataloader if mode == 'val' else runner.test_dataloader
            self._lines[mode] = self.bar.add_task('evaluating', total=len(loader), state='')
            self.silence.enter_context(redirect_stdout(io.StringIO()))  # Not of the loggers.

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train':
            self.silence.close()
            self.bar.remove_task(self._lines.pop(mode))

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        hub, state, done = runner.message_hub, [], batch_idx + 1
        seconds = hub.log_scalars.get(f'{mode}/time')  # Of IterTimerHook, which a config may leave out.
        if mode == 'train':
            done = runner.iter + 1
            state.append(f'loss {hub.get_scalar("train/loss").mean(10):.4g}')
            if seconds:
                rate = len(data_batch['inputs']) * runner.world_size / seconds.mean(10)
                state.append(f'{rate:.3g} images/s')
        if seconds:
            state.append(f'{timedelta(seconds=round(hub.get_info("eta")))} left')
        self.bar.update(self._lines[mode], completed=done, state='  '.join(state))
        (task,) = (task for task in self.bar.tasks if task.id == self._lines[mode])
        if task.finished or time.monotonic() > self._shown + 0.2:
            self.bar.refresh()
            self._shown = time.monotonic()
