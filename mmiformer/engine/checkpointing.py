"""Checkpoints that are whole at any moment, and nothing older that goes before the newer is there.

mmengine writes a checkpoint under its final name, deletes the older one before, and truncates
``last_checkpoint`` to fill it anew: a run killed in between leaves half a file, or none.
"""

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from mmiformer.utils.files import atomic_write, parts_in


class AtomicBackend(LocalBackend):
    """mmengine's backend of local files, whose files are whole at any moment; its name is ``atomic``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes under another name, brings them to the disk, and renames the file."""
        file = Path(filepath)
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, obj)


register_backend('atomic', AtomicBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, safe against a kill at any moment and against a full disk.

    A checkpoint and ``last_checkpoint`` are renamed once they are on the disk, and what they make obsolete
    goes after that. A checkpoint's ``meta`` also says ``processes`` and ``batch_size`` (of one of them). A
    resumed run first makes up for the validation that follows its checkpoint, since nobody knows whether it
    was done.

    Args:
        backend_args: Of mmengine's file backend. Defaults to :class:`AtomicBackend`.
        kwargs: All that ``CheckpointHook`` takes.
    """

    def __init__(self, *, backend_args: dict[str, Any] | None = None, **kwargs: Any) -> None:
        remote = '://' in str(kwargs.get('out_dir', '')) or kwargs.get('file_client_args')
        super().__init__(backend_args=backend_args or (None if remote else dict(backend='atomic')), **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Clears away what a killed run left, and validates where a resumed run has to."""
        super().before_train(runner)
        hub = runner.message_hub
        if is_main_process():
            for part in parts_in(Path(self.out_dir)):
                part.unlink(missing_ok=True)
            for step in hub.runtime_info.get('obsolete_ckpt_ids', ()):
                self._remove(self._path(step))
        loop, validation = runner.train_loop, runner.val_loop
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if loop.iter % counts:
            runner.logger.warning(
                f'The checkpoint lies within {counts} batches whose gradients are added up, and those are '
                f'lost; save at multiples of {counts} iterations.'
            )
        done = _done(loop)
        if done and validation is not None and done >= loop.val_begin:
            loop._decide_current_val_interval()
            last = loop.max_iters if isinstance(loop, IterBasedTrainLoop) else loop.max_epochs
            due = done % loop.val_interval == 0 or done == last
            if due and hub.runtime_info.get('validated') != done:
                runner.logger.info('The validation after the checkpoint is done, perhaps again.')
                validation.run()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Adds what a run of another number of processes needs to know."""
        batch_size = getattr(runner.train_loop.dataloader.batch_sampler, 'batch_size', None)
        if batch_size is not None:
            checkpoint['meta'].update(processes=runner.world_size, batch_size=batch_size)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        obsolete = []
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                obsolete.append(self.keep_ckpt_ids.popleft())
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            # For the next run, if this one is killed before it has removed them.
            runner.message_hub.update_info('obsolete_ckpt_ids', obsolete)
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            atomic_write(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
            for former in obsolete:
                self._remove(self._path(former))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        runner.message_hub.update_info('validated', _done(runner.train_loop))
        backend: Any = self.file_backend  # type: ignore[has-type]  # mmengine is untyped.
        self.file_backend = _RemoveLater(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
            obsolete = self.file_backend.removed
        finally:
            self.file_backend = backend
        if self.save_best:
            one = len(self.key_indicators) == 1
            kept = [self.best_ckpt_path] if one else self.best_ckpt_path_dict.values()
            for path in set(obsolete).difference(kept):
                self._remove(path)

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _remove(self, path: str) -> None:
        if self.file_backend.isdir(path):  # DeepSpeed's checkpoints are folders.
            self.file_backend.rmtree(path)
        elif self.file_backend.isfile(path):
            self.file_backend.remove(path)


class _RemoveLater:
    """A file backend that notes what it is to remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.removed: list[str] = []
        self.remove = self.rmtree = self.removed.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _done(loop: BaseLoop) -> int:
    """What a loop counts its validations by."""
    return loop.iter if isinstance(loop, IterBasedTrainLoop) else loop.epoch
