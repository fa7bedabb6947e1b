"""mmengine's runner, over our reader of weight files."""

from pathlib import Path
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner as MMEngineRunner

from mmiformer.checkpoints import load_weights
from mmiformer.checkpoints.fit import load_state_dict
from mmiformer.engine.resuming import check_same_run, read_to_resume
from mmiformer.utils.errors import UserError, first_line


class Runner(MMEngineRunner):
    """mmengine's ``Runner``, whose ``load_from`` and ``resume`` read files by :mod:`mmiformer.checkpoints`.

    Attributes:
        to_resume: What :func:`~mmiformer.engine.resuming.resume` gave for ``load_from``, or None.
    """

    to_resume: dict[str, Any] | None = None

    def resume(self, filename: str, **kwargs: Any) -> None:
        """Goes on from a training checkpoint.

        Args:
            filename: Path of the checkpoint; is read unless it was before.
            kwargs: Of mmengine's ``resume``.

        Raises:
            UserError: If the file cannot be read, or is of another run.
        """
        self.to_resume = self.to_resume or read_to_resume(filename, Path(self.work_dir))
        try:
            super().resume(filename, **kwargs)
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                filename,
                f'does not fit this run ({first_line(error)})',
                'take another checkpoint, or resume it with the config in its work dir',
            ) from error

    def load_checkpoint(
        self, filename: str, map_location: Any = 'cpu', strict: bool = False, revise_keys: Any = ()
    ) -> dict[str, Any]:
        """Fills the model, and returns what ``resume`` goes on from.

        Args:
            filename: Path or https address.
            map_location: Left aside: weights are read to the CPU.
            strict: As :func:`~mmiformer.checkpoints.load_weights` takes it.
            revise_keys: Left aside: names are translated.

        Raises:
            UserError: If the file cannot be read or does not fit.
        """
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if self.to_resume is None:
            load_weights(model, filename, strict)
            checkpoint = dict(state_dict=model.state_dict())
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        else:
            checkpoint = check_same_run(self, self.to_resume, filename)
            self.to_resume = None  # Large.
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
            load_state_dict(model, checkpoint['state_dict'], strict=True)
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint
