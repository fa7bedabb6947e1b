"""Checkpoints that are complete at any moment, even if a run is killed.

mmengine writes a checkpoint under its final name, and removes the older one before. A run that is killed in
between has no usable checkpoint.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from mmiformer.utils.files import atomic_write, parts_in


class AtomicBackend(LocalBackend):
    """mmengine's backend for local files with atomic writes, registered as ``atomic``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes to a temporary file and renames it."""
        file = Path(filepath)
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, obj)


register_backend('atomic', AtomicBackend, force=True)


@HOOKS.register_module(name=['AtomicCheckpointHook', 'WholeCheckpointHook'])  # The latter is its former name.
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, safe against a kill at any moment and against a full disk.

    Checkpoints are written atomically, and older ones are removed afterwards. The ``meta`` of a checkpoint
    also has ``processes`` and ``batch_size`` (of each process). A resumed run first repeats the validation
    that follows its checkpoint, because it may have been interrupted.

    Args:
        backend_args: Of mmengine's file backend. Defaults to :class:`AtomicBackend`.
        kwargs: All that ``CheckpointHook`` takes.
    """

    def __init__(self, *, backend_args: dict[str, Any] | None = None, **kwargs: Any) -> None:
        remote = '://' in str(kwargs.get('out_dir', '')) or kwargs.get('file_client_args')
        super().__init__(backend_args=backend_args or (None if remote else dict(backend='atomic')), **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Removes the temporary files of a killed run, and validates if a resumed run has to."""
        super().before_train(runner)
        if is_main_process():
            for part in parts_in(Path(self.out_dir)):
                part.unlink(missing_ok=True)
        loop, validation = runner.train_loop, runner.val_loop
        by_iter = isinstance(loop, IterBasedTrainLoop)
        done, last = (loop.iter, loop.max_iters) if by_iter else (loop.epoch, loop.max_epochs)
        if done and validation is not None and done >= loop.val_begin:
            loop._decide_current_val_interval()  # mmengine has no public way to ask for it.
            if done % loop.val_interval == 0 or done == last:
                runner.logger.info('Validating the checkpoint first.')
                validation.run()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Adds what a run with another number of processes needs to know."""
        batch_size = getattr(runner.train_loop.dataloader.batch_sampler, 'batch_size', None)
        if batch_size is not None:
            checkpoint['meta'].update(processes=runner.world_size, batch_size=batch_size)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        # mmengine passes over evaluations without any metric, such as those of a detector that finds nothing.
        if self.save_best:
            others = sorted(metrics.keys() - {'val_loss'})
            known = [*metrics, *(['auto'] if others else [])]
            if missing := [key for key in self.key_indicators if key not in known]:
                if others:
                    names = ', '.join(missing)
                    runner.logger.warning(f'save_best: no {names} among the metrics {", ".join(others)}.')
                return
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        backend: Any = self.file_backend  # type: ignore[has-type]  # mmengine is untyped.
        removals: list[tuple[Callable[[str], None], str]] = []
        self.file_backend = deferring = copy.copy(backend)
        deferring.remove = lambda path: removals.append((backend.remove, path))
        deferring.rmtree = lambda path: removals.append((backend.rmtree, path))
        try:
            yield
        finally:
            self.file_backend = backend
        # A repeated validation may write the best checkpoint under the same name.
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        for remove, path in removals:
            if path not in best:
                remove(path)
