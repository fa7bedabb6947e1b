"""Models as plain functions from one image tensor to a tuple of tensors, the form that runtimes take."""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmiformer.deploy.folding import fold
from mmiformer.deploy.rewriting import pool_by_matmul, replace
from mmiformer.tasks import TASKS
from mmiformer.utils.errors import UserError


class ExportWrapper(nn.Module):
    """A network that maps one tensor to a tuple of tensors; a subclass says which.

    Args:
        model: A backbone or the model of a config.
        folded: True makes a folded copy, to export. False takes the model as it is, in eval mode: the
            reference that an exported file is compared with. Defaults to True.

    Attributes:
        outputs: Names of the returned tensors.
        batched: Whether it takes more than one image at a time.
        divisor: What height and width must be multiples of.
        widths: Channels of the masks' network, of RTMDet-Ins alone.
    """

    outputs: tuple[str, ...]
    batched = True
    divisor = 1
    widths: tuple[int, ...] = ()

    def __init__(self, model: Any, folded: bool = True) -> None:
        super().__init__()
        self.model: Any = fold(model) if folded else model
        self.eval()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps a normalised image, N x 3 x H x W, to the outputs."""
        raise NotImplementedError

    def without_suppression(self, limit: int | None) -> 'ExportWrapper':
        """The form for runtimes without non-maximum suppression.

        Args:
            limit: How many candidates leave the file at most; None where it has neither top-k nor argmax.

        Raises:
            UserError: If the model cannot do without.
        """
        return self


class Features(ExportWrapper):
    """The feature maps of a backbone, N x C x ceil(H / s) x ceil(W / s) for each stride s."""

    def __init__(self, model: Any, folded: bool = True) -> None:
        super().__init__(model, folded)
        indices = getattr(model, 'out_indices', None)
        if indices is None:
            with torch.no_grad():
                indices = range(len(self.model(torch.zeros(1, 3, 64, 64))))
        self.outputs = tuple(f'stage{index + 1}' for index in indices)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to the feature maps."""
        return tuple(self.model(image))


class Logits(ExportWrapper):
    """The logits of a classifier, N x classes."""

    outputs = ('logits',)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to the logits."""
        return (self.model(image, mode='tensor'),)


class LabelMap(ExportWrapper):
    """The label map of a segmentor, N x H x W (int64), as mmseg's mode ``whole`` computes it."""

    outputs = ('labels',)

    def __init__(self, model: Any, folded: bool = True) -> None:
        from mmseg.models.utils import Upsample

        head, mode = model.decode_head, model.test_cfg.mode
        if isinstance(head, nn.ModuleList) or head.out_channels == 1 or mode != 'whole':
            problem = 'expected one decode_head with a channel for each class, and test_cfg.mode whole'
            raise UserError(type(model).__name__, problem, 'set that, or export --what backbone')
        super().__init__(model, folded)
        if folded:
            pool_by_matmul(self.model)  # UPerNet's pyramid.
            # mmseg's Upsample computes its size with Python's numbers, which fixes the size of the file.
            replace(
                self.model, Upsample, lambda m: nn.Upsample(m.size, m.scale_factor, m.mode, m.align_corners)
            )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to the labels."""
        logits = F.interpolate(
            self.logits(image),
            size=image.shape[2:],
            mode='bilinear',
            align_corners=self.model.decode_head.align_corners,
        )
        return (logits.argmax(dim=1),)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """The class logits, N x classes x h x w, as the head returns them."""
        return self.model.decode_head(self.model.extract_feat(image))

    def without_suppression(self, limit: int | None) -> ExportWrapper:
        """See :class:`ExportWrapper`."""
        return self if limit else ClassLogits(self)


class ClassLogits(ExportWrapper):
    """A segmentor for runtimes without argmax: the logits of its head, N x classes x h x w.

    The app resizes them to the image and takes the best class.
    """

    outputs = ('logits',)
    batched = False

    def __init__(self, labels: LabelMap) -> None:
        super().__init__(labels, folded=False)
        if labels.model.decode_head.align_corners:
            raise UserError('model.decode_head.align_corners', 'expected False', 'use --to onnx or openvino')

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps 1 x 3 x H x W to the logits."""
        return (self.model.logits(image),)


class FromPixels(nn.Module):
    """An export wrapper that takes pixels, N x H x W x 3, RGB, 0..255, and normalises them itself.

    Args:
        wrapper: The wrapper, which takes normalised images.
        preprocessor: ``data_preprocessor`` of the config, for mean, std and the order of colours.

    Attributes:
        planar: Whether the pixels are N x 3 x H x W instead, as image inputs of phones give them.
    """

    planar = False

    def __init__(self, wrapper: ExportWrapper, preprocessor: Mapping[str, Any]) -> None:
        super().__init__()
        self.wrapper = wrapper
        self.outputs, self.batched, self.divisor = wrapper.outputs, wrapper.batched, wrapper.divisor
        self.to_bgr = not (preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb'))
        # (x - mean) / std as one multiplication and one addition.
        mean, std = (torch.tensor(preprocessor[key]).reshape(1, 3, 1, 1) for key in ('mean', 'std'))
        self.factor = nn.Parameter(1 / std, requires_grad=False)
        self.shift = nn.Parameter(-mean / std, requires_grad=False)
        self.eval()

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps pixels, N x H x W x 3, to the images that the wrapper takes, N x 3 x H x W."""
        image = pixels.permute(0, 3, 1, 2).float()
        if self.to_bgr:
            image = image.flip(1)
        return image * self.factor + self.shift

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps pixels to the outputs of the wrapper."""
        return self.wrapper(self.normalise(pixels.permute(0, 2, 3, 1) if self.planar else pixels))


def build_export_wrapper(model: Any, what: str, folded: bool = True) -> ExportWrapper:
    """Builds the export wrapper of a model.

    Args:
        model: The model of a config.
        what: ``'backbone'`` for the feature maps, ``'model'`` for the predictions.
        folded: See :class:`ExportWrapper`. Defaults to True.

    Raises:
        UserError: If there is no wrapper for this type of model.
    """
    if what == 'backbone':
        return Features(model.backbone, folded)
    name = type(model).__name__
    toolboxes = {base.__module__.partition('.')[0] for base in type(model).__mro__}
    for task in TASKS.values():
        wrapper = task.export_wrappers.get(name) or task.export_wrappers.get('*')
        if task.scope in toolboxes and wrapper:
            return resolve_name(wrapper)(model, folded)
    remedy = 'export --what backbone, and run the rest in your own code'
    raise UserError(name, 'has no export wrapper', remedy)
