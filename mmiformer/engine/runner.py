"""mmengine's runner with our reader of weight files, and less on the console."""

import logging
import re
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner as MMEngineRunner

from mmiformer.checkpoints import load_weights
from mmiformer.engine.resuming import training_state
from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError, first_line

# What is of no use on the console: long, repeated, or about mmengine itself.
_FOR_THE_FILE = re.compile(
    r'\n-{60}|Config:|Hooks will be executed|paramwise_options|Exp name:|Checkpoints will be saved to|'
    r'Distributed training is not used|"(?:FileClient|HardDiskBackend)" |\S+ is duplicate\. It is skipped'
)


class Runner(MMEngineRunner):
    """mmengine's ``Runner``, which reads ``load_from`` with :mod:`mmiformer.checkpoints`.

    Environment, config, hooks and the settings of each parameter, hundreds of lines, and remarks of mmengine
    on itself are in the log file alone.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Builds mmengine's logger, whose console leaves out those lines."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_for_the_console)
        return logger

    def dump_config(self) -> None:
        """Writes nothing: :class:`~mmiformer.engine.record.RecordHook` does, once for a work dir."""

    def resume(self, filename: str, **kwargs: Any) -> None:
        """Resumes from a training checkpoint.

        Args:
            filename: Path of the checkpoint.
            kwargs: Of mmengine's ``resume``.

        Raises:
            UserError: If the file cannot be read, or is of another run.
        """
        try:
            super().resume(filename, **kwargs)
        except UserError:
            raise
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise UserError(
                filename,
                f'does not fit this run ({first_line(error)})',
                'resume it with the config in its work dir',
            ) from error

    def load_checkpoint(self, filename: str, *_: Any, strict: bool = False, **__: Any) -> dict[str, Any]:
        """Loads weights into the model.

        Args:
            filename: Path or https address; other arguments of mmengine's method have no effect.
            strict: Whether the weights must be those of the model; they must in any case to resume.

        Returns:
            The weights and, to resume, the state of the training.

        Raises:
            UserError: If the file cannot be read or does not fit.
        """
        model = self.model.module if is_model_wrapper(self.model) else self.model
        # mmengine's EMAHook asks for the runner's _resume as well.
        file = load_weights(model, filename, strict or self._resume)
        checkpoint: dict[str, Any] = dict(state_dict=model.state_dict())
        if self._resume:
            checkpoint |= training_state(file, filename, Path(self.work_dir))
            schedules, own = checkpoint.get('param_schedulers'), self.param_schedulers
            # mmengine restores as many as there are, and leaves the others at their start.
            if isinstance(own, list) and (not isinstance(schedules, list) or len(schedules) != len(own)):
                problem = f'does not hold the states of the {len(own)} schedules of this run'
                raise UserError(filename, problem, 'resume it with the config in its work dir')
            if isinstance(self.optim_wrapper, OptimWrapper):
                # torch would take the checkpoint's, with which a loss scaler fails if only one is fused.
                groups = zip(
                    self.optim_wrapper.param_groups, checkpoint['optimizer']['param_groups'], strict=False
                )
                for own_group, group in groups:
                    group['fused'] = own_group.get('fused')
            meta = checkpoint['meta']
            _check_batch(self, meta)
            # mmengine warns of any difference, also in what is not read from the file.
            metainfo = getattr(self.train_dataloader.dataset, 'metainfo', {})
            if meta['dataset_meta'].get('classes') == metainfo.get('classes'):
                meta['dataset_meta'] = metainfo
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model.load_state_dict(checkpoint['state_dict'])  # EMAHook exchanges the weights.
        self.logger.info(f'Loaded checkpoint from {filename}')
        return checkpoint


def _is_for_the_console(record: logging.LogRecord) -> bool:
    return not _FOR_THE_FILE.match(record.getMessage())


def _check_batch(runner: MMEngineRunner, meta: dict[str, Any]) -> None:
    """Warns if a run resumes with another batch; an error if its schedule counts the iterations of epochs."""
    cfg, processes = runner.cfg, runner.world_size
    batch = processes * cfg.get('train_dataloader', {}).get('batch_size', 0)
    before = meta.get('processes', 0) * meta.get('batch_size', 0)
    if before == batch or 0 in (before, batch):
        return
    problem = f'the checkpoint was trained with a batch of {before} over all processes, this run has {batch}'
    remedy = f'set train_dataloader.batch_size times the number of processes ({processes}) to {before}'
    schedule = [part for _, part in walk(cfg.get('param_scheduler') or [])]
    if 'max_epochs' in cfg.train_cfg and any(part.get('convert_to_iter_based') for part in schedule):
        raise UserError('--resume', f'{problem}, so its schedule would not end with the last epoch', remedy)
    runner.logger.warning(
        f'--resume: {problem} and the learning rate of the checkpoint; {remedy} to keep that batch.'
    )
