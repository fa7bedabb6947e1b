"""Pictures of a run: augmented training images, predictions beside the ground truth at each evaluation."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmiformer.engine.seeding import SeededIndex, seeded
from mmiformer.tasks import task_of
from mmiformer.utils.errors import first_line
from mmiformer.utils.files import replacing


class DrawPredictionsHook(Hook):
    """Draws ground truth and predictions of some validation images after each evaluation.

    Args:
        out: Picture to write, over the one of the previous evaluation.
    """

    priority = 'ABOVE_NORMAL'  # Before EMAHook restores the weights that are not averaged.

    def __init__(self, out: Path) -> None:
        self.out = out

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Draws, and logs the path; an error is logged and does not stop the training."""
        try:
            with replacing(self.out) as part:
                _draw(runner.model, runner.val_dataloader.dataset, runner.cfg, part)
        except Exception as error:
            runner.logger.warning(f'{self.out}: no predictions drawn ({first_line(error)}).')
        else:
            runner.logger.info(f'Predictions are drawn in {self.out}')


def draw_training_images(dataset: BaseDataset, cfg: Config, out: Path, count: int = 8) -> None:
    """Draws images of a training set as the network gets them, with their ground truth.

    It changes neither random numbers nor what transforms keep, such as the other images of mosaics.

    Args:
        dataset: The training set, without wrappers.
        cfg: Its config.
        out: Picture to write.
        count: Number of images. Defaults to 8.
    """
    painter = task_of(cfg).painter(cfg, dataset.metainfo)
    dataset = copy.copy(dataset)
    dataset.pipeline = copy.deepcopy(dataset.pipeline)
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    with seeded(0):
        data = [dataset[SeededIndex(index, index)] for index in indices.tolist()]
    rows = -(-len(data) // 4)
    figure = Figure(figsize=(12, 3.1 * rows), layout='constrained')
    panels = figure.subplots(rows, 4, squeeze=False)
    for axes in panels.flat:
        axes.axis('off')
    for item, axes in zip(data, panels.flat, strict=False):
        image = item['inputs'].clamp(0, 255).byte()  # Erased pixels are noise without bounds.
        image = np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1])
        painter.truth_panel(axes, image, item['data_samples'])
    figure.savefig(out, dpi=110)


def _draw(model: BaseModel, dataset: BaseDataset, cfg: Config, out: Path) -> None:
    """Draws up to eight images of a data set whose pipeline loads annotations; the model is in eval mode."""
    painter = task_of(cfg).painter(cfg, dataset.metainfo)
    count = min(8, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int)  # Neighbours may be frames of one video.
    with torch.no_grad():
        samples = [model.test_step(pseudo_collate([dataset[index]]))[0] for index in indices.tolist()]
    rows, legend = -(-count // painter.columns), painter.legend(samples)
    height = 2.6 * rows + 0.8
    figure = Figure(figsize=(12, height))
    panels = figure.subplots(rows, painter.columns, squeeze=False)
    for axes in panels.flat:
        axes.axis('off')
    for sample, axes in zip(samples, panels.flat, strict=False):
        # Read by the data set's own transform, whatever its file backend is.
        image = dataset.pipeline.transforms[0](dict(img_path=sample.img_path))['img'][..., ::-1]
        painter.panel(axes, image, sample)
    figure.tight_layout(rect=(0, 0.5 / height, 1, 1) if legend else None)
    if legend:
        figure.legend(**legend)
    figure.savefig(out, dpi=110)
