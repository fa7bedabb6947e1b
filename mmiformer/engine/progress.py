"""A progress bar for trainings and evaluations on a terminal."""

import io
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

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
        TimeRemainingColumn(),
        TextColumn('left'),
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

    priority = 'LOWEST'  # A step includes the work of other hooks.
    _shown = 0.0

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.silence = ExitStack()
        self._lines: dict[str, TaskID] = {}

    def before_train(self, runner: Runner) -> None:
        self._start('train', runner.max_iters, runner.iter)

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train':
            loader = runner.val_dataloader if mode == 'val' else runner.test_dataloader
            self._start(mode, len(loader))
            self.silence.enter_context(redirect_stdout(io.StringIO()))  # Not of the loggers.

    def _start(self, mode: str, total: int, done: int = 0) -> None:
        name = 'training' if mode == 'train' else 'evaluating'
        self._lines[mode] = self.bar.add_task(name, total=total, completed=done, state='')

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train':
            self.silence.close()
            self.bar.remove_task(self._lines.pop(mode))

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        (task,) = (task for task in self.bar.tasks if task.id == self._lines[mode])
        if mode == 'train':
            loss = runner.message_hub.get_scalar('train/loss').mean(10)
            images = len(data_batch['inputs']) * runner.world_size
            rate = f'{images * task.speed:.3g}' if task.speed else '-'
            self.bar.update(task.id, completed=runner.iter + 1, state=f'loss {loss:.4g}  {rate} images/s')
        else:
            self.bar.update(task.id, completed=batch_idx + 1)
        if task.finished or time.monotonic() > self._shown + 0.2:
            self.bar.refresh()
            self._shown = time.monotonic()
