"""A picture of what the model finds, at each evaluation."""

from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmiformer.engine.curves import draw_predictions
from mmiformer.utils.errors import first_line


class DrawPredictionsHook(Hook):
    """Draws truth and prediction of some validation images after each evaluation, over the last picture.

    Args:
        out: Picture to write.
    """

    priority = 'ABOVE_NORMAL'  # Before EMAHook takes the averaged weights, which were evaluated, away.

    def __init__(self, out: Path) -> None:
        self.out = out

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Draws, and says where."""
        part = self.out.with_name(f'.{self.out.name}')
        try:
            draw_predictions(runner.model, runner.val_dataloader.dataset, runner.cfg, part)
            part.replace(self.out)  # Whole at any moment, since people look at it.
        except Exception as error:  # A picture is not worth a training.
            runner.logger.warning(f'{self.out}: no predictions drawn ({first_line(error)}).')
        else:
            runner.logger.info(f'Predictions are drawn in {self.out}')
