"""Early stopping that a resumed run continues."""

from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's ``EarlyStoppingHook``, whose best score and count of evaluations since are in checkpoints.

    They are in the message hub, as the best score of ``CheckpointHook`` is.

    Args:
        kwargs: All that ``EarlyStoppingHook`` takes.
    """

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Decides whether to stop the training."""
        key, info = f'early_stopping_{self.monitor}', runner.message_hub.runtime_info
        if key in info:
            self.wait_count, self.best_score = info[key]
        super().after_val_epoch(runner, metrics)
        runner.message_hub.update_info(key, (self.wait_count, float(self.best_score)))
