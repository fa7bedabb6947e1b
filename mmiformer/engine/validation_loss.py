"""The loss on the validation images."""

import copy
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmiformer.datasets.checks import datasets_of
from mmiformer.engine.seeding import seeded
from mmiformer.utils.configs import kind_of


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Adds ``val_loss``, the mean loss of the validation images, to the metrics of each evaluation.

    There it is logged, and ``save_best`` and early stopping can take it. The images are loaded and go through
    the network a second time, with the weights that are evaluated, in eval mode and without mixed precision.
    Losses that choose at random, such as those of Mask R-CNN, choose the same in each evaluation. Weights,
    statistics of BatchNorm and random numbers of the training stay as they are.
    """

    priority = 'HIGHEST'  # Before others log the metrics, and before EMAHook restores the training's weights.

    _loader: DataLoader | None = None

    @torch.no_grad()
    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Computes the loss; the mean over the images, although the last batch may have fewer."""
        if metrics is None:
            return
        if self._loader is None:
            self._loader = runner.build_dataloader(_with_targets(runner.cfg), seed=runner.seed)
        model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
        preprocessor = model.data_preprocessor
        total = torch.zeros(2)
        with seeded(runner.seed):
            for batch in self._loader:
                data = preprocessor(batch, False)
                if getattr(preprocessor, 'pad_mask', False):  # mmdet pads masks in training only.
                    preprocessor.pad_gt_masks(data['data_samples'])
                # Not the forward pass, at which CheckFiniteHook would stop the training.
                loss, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
                images = len(data['data_samples'])
                total += torch.tensor([images * loss.item(), images])
        all_reduce(total)
        metrics['val_loss'] = float(total[0] / total[1])


def _with_targets(cfg: Config) -> ConfigDict:
    """The validation's data loader, with annotations that transforms change together with the images.

    Evaluations need them in the size of the file, and load them after the image is resized.
    """
    cfg = copy.deepcopy(cfg)
    for dataset in datasets_of(cfg, 'val'):
        dataset.pipeline = sorted(dataset.pipeline, key=lambda step: not kind_of(step).startswith('Load'))
    return ConfigDict(cfg.val_dataloader, persistent_workers=False)
