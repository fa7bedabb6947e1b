"""An exported file in place of the model of its config, to evaluate it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch.nn import functional as F

from mmiformer.datasets.checks import datasets_of
from mmiformer.deploy.runtimes import Runtime, Session, runtime_of
from mmiformer.deploy.wrappers import FromPixels, build_export_wrapper
from mmiformer.utils.errors import UserError


def open_exported(file: str | Path) -> tuple[Runtime, Session]:
    """Opens an exported file.

    Raises:
        UserError: If it is missing or broken, or its runtime is not installed or does not run here.
    """
    runtime = runtime_of(file)
    assert runtime, 'callers ask for the runtime first'
    for part in runtime.files(Path(file)):
        if not part.exists():
            raise UserError(part, 'no such file', 'name a file that tools/export.py wrote')
    if not runtime.runs_here:
        raise UserError(file, f'{runtime.name} does not run on this machine', 'evaluate the onnx file')
    runtime.require()
    try:
        return runtime, runtime.open(Path(file))
    except Exception as error:  # Each has its own.
        raise UserError(file, f'not a file that {runtime.name} can read', 'export it again') from error


def fit_images(cfg: Config, size: tuple[int, int] | None) -> None:
    """Makes the test pipeline of a config, in place, resize images so that they fit a file.

    One that pads then pads to the file, with its colour; else :class:`ExportedModel` pads, as the
    preprocessor does.

    Args:
        cfg: The config.
        size: Height and width of the file, or None if they are free.
    """
    if not size:
        return
    for step in (step for dataset in datasets_of(cfg, 'test') for step in dataset.pipeline):
        if step.type == 'Resize' and 'scale' in step:
            step.scale = size[::-1]  # mm's width comes first.
        elif step.type == 'Pad':
            step.update(size=size[::-1], size_divisor=None, pad_to_square=False)


class ExportedModel(BaseModel):
    """Runs an exported file, so that mmengine's runner and evaluators take it for a model.

    Args:
        model: The model of the config, for its preprocessing and thresholds; its weights are not used.
        runtime: The runtime of the file.
        session: The file.
        preprocessor: ``data_preprocessor`` of the config.
    """

    def __init__(
        self, model: Any, runtime: Runtime, session: Session, preprocessor: Mapping[str, Any]
    ) -> None:
        super().__init__(model.data_preprocessor)
        self.wrapper = build_export_wrapper(model, 'model', folded=False)
        self.form = runtime.suited(self.wrapper)
        self.from_pixels = FromPixels(self.wrapper, preprocessor)
        self.padding = preprocessor.get('pad_value', preprocessor.get('pad_val', 0))  # mmseg's name of it.
        self.session = session

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'predict') -> list[Any]:
        """Fills the predictions for a preprocessed batch in; images are run one by one."""
        for image, sample in zip(inputs, data_samples, strict=True):
            image = self._fit(image, sample)[None].contiguous()
            height, width = image.shape[2:]
            pixels = self.from_pixels.restore(image) if self.session.pixels else image
            outputs = self.form.finish(self.session(pixels.numpy()), (height, width))
            tensors = [torch.from_numpy(np.ascontiguousarray(output)) for output in outputs]
            self.wrapper.add_predictions(sample, tensors)
        return data_samples

    def _fit(self, image: torch.Tensor, sample: Any) -> torch.Tensor:
        """Pads an image on the right and below to the size of the file."""
        if not self.session.size or self.session.size == tuple(image.shape[1:]):
            return image
        height, width = sample.img_shape[:2]
        below, right = self.session.size[0] - height, self.session.size[1] - width
        if min(below, right) < 0 or (self.wrapper.outputs == ('logits',) and max(below, right) > 0):
            file = 'the file takes {}x{}'.format(*self.session.size)
            remedy = 'export it with that --size, or change the test pipeline'
            raise UserError(sample.img_path, f'{file}, the test pipeline gives {height}x{width}', remedy)
        return F.pad(image[:, :height, :width], (0, right, 0, below), value=self.padding)
