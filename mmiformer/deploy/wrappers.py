"""A model as a plain function of one image tensor, which is what runtimes take."""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmiformer.deploy.folding import fold
from mmiformer.deploy.rewriting import pool_by_products, replace
from mmiformer.tasks import TASKS
from mmiformer.utils.errors import UserError

Reference = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


class ExportWrapper(nn.Module):
    """A folded network that takes one tensor and returns a tuple of them; a subclass says which.

    Args:
        model: A backbone or the model of a config; it is left as it is.

    Attributes:
        outputs: Names of the tensors of the tuple.
        batched: Whether it takes more than one image at a time.
    """

    outputs: tuple[str, ...]
    batched = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = fold(model)
        self.eval()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps a normalised image, N x 3 x H x W, to the outputs."""
        raise NotImplementedError

    @staticmethod
    def reference(model: Any) -> Reference | None:
        """What the outputs are compared with: those of the whole model, in eval mode, as it is.

        Returns:
            A function like :meth:`forward`; None where the model's predictions have another form.
        """
        return None


class Features(ExportWrapper):
    """The maps of a backbone, as many as its ``out_indices``: N x C x ceil(H / s) x ceil(W / s) each."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        indices = getattr(backbone, 'out_indices', None)
        if indices is None:  # Somebody else's: as many as it gives.
            with torch.no_grad():
                indices = range(len(self.model(torch.zeros(1, 3, 64, 64))))
        self.outputs = tuple(f'stage{index + 1}' for index in indices)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to the maps."""
        return tuple(self.model(image))

    @staticmethod
    def reference(model: Any) -> Reference:
        """The maps of the model's backbone."""
        return lambda image: tuple(model.backbone(image))


class Logits(ExportWrapper):
    """The logits of a classifier, N x classes."""

    outputs = ('logits',)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to the logits."""
        return (self.model(image, mode='tensor'),)

    @staticmethod
    def reference(model: Any) -> Reference:
        """The logits of the model."""
        return lambda image: (model(image, mode='tensor'),)


class LabelMap(ExportWrapper):
    """The label map of a segmentor, N x H x W, as mmseg's whole-image mode computes it."""

    outputs = ('labels',)

    def __init__(self, segmentor: Any) -> None:
        from mmseg.models.utils import Upsample

        head, mode = segmentor.decode_head, segmentor.test_cfg.mode
        if isinstance(head, nn.ModuleList) or head.out_channels == 1 or mode != 'whole':
            raise UserError(
                type(segmentor).__name__,
                'whole segmentors are exported with one decode_head, a channel for each class, and '
                "test_cfg.mode 'whole'",
                'set that, or export --what backbone',
            )
        super().__init__(segmentor)
        pool_by_products(self.model)  # UPerNet's pyramid.

        def plain(m: Any) -> nn.Module | None:  # mmseg's computes with Python's numbers: a fixed size.
            known = isinstance(m, Upsample)
            return nn.Upsample(m.size, m.scale_factor, m.mode, m.align_corners) if known else None

        replace(self.model, plain)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to labels (int64)."""
        head = self.model.decode_head
        logits = head(self.model.extract_feat(image))
        logits = F.interpolate(
            logits, size=image.shape[2:], mode='bilinear', align_corners=head.align_corners
        )
        return (logits.argmax(dim=1),)

    @staticmethod
    def reference(model: Any) -> Reference:
        """The labels by mmseg's own whole-image mode."""
        return lambda image: (
            model.encode_decode(image, [dict(img_shape=tuple(image.shape[2:]))] * len(image)).argmax(dim=1),
        )


class Normalisation(nn.Module):
    """What a config does to pixels before the network: mean, std, and the order of colours.

    Args:
        preprocessor: ``data_preprocessor`` of the config.
    """

    def __init__(self, preprocessor: Mapping[str, Any]) -> None:
        super().__init__()
        self.flipped = not (preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb'))
        # (x - mean) / std as one multiplication and one addition.
        mean, std = (torch.tensor(preprocessor[key]).reshape(1, 3, 1, 1) for key in ('mean', 'std'))
        self.factor = nn.Parameter(1 / std, requires_grad=False)
        self.shift = nn.Parameter(-mean / std, requires_grad=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps N x H x W x 3, uint8, RGB, to N x 3 x H x W."""
        pixels = image.permute(0, 3, 1, 2).float()
        if self.flipped:  # The network was trained on BGR.
            pixels = pixels.flip(1)
        return pixels * self.factor + self.shift


class FromPixels(nn.Module):
    """A program whose image is N x H x W x 3, uint8, RGB, as cameras give it; it normalises inside.

    Args:
        program: The program.
        preprocessor: ``data_preprocessor`` of the config, see :class:`Normalisation`.
    """

    def __init__(self, program: ExportWrapper, preprocessor: Mapping[str, Any]) -> None:
        super().__init__()
        self.normalisation = Normalisation(preprocessor)
        self.program = program
        self.outputs, self.batched = program.outputs, program.batched
        self.eval()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x H x W x 3, uint8, to the outputs."""
        return self.program(self.normalisation(image))

    def reference(self, model: Any) -> Reference | None:
        """See :meth:`ExportWrapper.reference`."""
        normalised = self.program.reference(model)
        return normalised and (lambda image: normalised(self.normalisation(image)))


def build_export_wrapper(model: Any, what: str = 'backbone') -> ExportWrapper:
    """The program of a model, folded.

    Args:
        model: The model of a config.
        what: ``'backbone'`` for the feature maps, ``'model'`` for the result of the whole model.

    Raises:
        UserError: If the whole model is of a kind that has no program.
    """
    if what == 'backbone':
        return Features(model.backbone)
    name = type(model).__name__
    toolboxes = {base.__module__.partition('.')[0] for base in type(model).__mro__}
    for task in TASKS.values():
        wrapper = task.export_wrappers.get(name) or task.export_wrappers.get('*')
        if task.scope in toolboxes and wrapper:
            return resolve_name(wrapper)(model)
    raise UserError(
        name, 'has no program for --what model', 'export --what backbone, and run the rest in your own code'
    )
