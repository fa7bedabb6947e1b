"""timm's EfficientFormers on images of any size. Needs mmpretrain and timm."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.efficientformer import Attention, EfficientFormer
from timm.models.efficientformer_v2 import Attention2d, Attention2dDownsample
from torch import nn
from torch.nn import functional

from mmiformer.models.backbones.timm_features import TIMMFeatures


class EfficientFormerFeatures(TIMMFeatures):
    """timm's ``EfficientFormer`` or ``EfficientFormerV2``, which are for 224x224, on images of any size.

    Their attention has a learned bias for each pair of tokens. At other sizes than 224x224 this matrix of
    queries x keys is resized (bicubic), as in the authors' detectors. (Theirs start from zeros and resize
    the matrix of 800x800; here it is that of the weights.) At 224x224 nothing changes.

    Args:
        model_name: timm's name of the network.
        kwargs: As of :class:`TIMMFeatures`.
    """

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        super().__init__(model_name, **kwargs)
        for name, module in list(self.named_modules()):
            if kind := _ANY_SIZE.get(type(module)):
                # The same parameters and children in a subclass that reads the map's size.
                resized = kind.__new__(kind)
                resized.__dict__.update(module.__dict__)
                self.set_submodule(name, resized)


class _ResizedBiases(nn.Module):
    queries: int
    keys: int
    attention_biases: torch.Tensor
    attention_bias_idxs: torch.Tensor

    def get_attention_biases(self, device: torch.device) -> torch.Tensor:
        biases = self.attention_biases[:, self.attention_bias_idxs]
        if biases.shape[1:] == (self.queries, self.keys):
            return biases
        return functional.interpolate(biases[None], (self.queries, self.keys), mode='bicubic')[0]


class _Attention(_ResizedBiases, Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.queries = self.keys = x.shape[1]
        return super().forward(x)


class _Attention2d(_ResizedBiases, Attention2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        self.resolution = tuple(size) if self.stride_conv is None else _halved(size)
        self.N = self.queries = self.keys = math.prod(self.resolution)
        # An odd side is halved, rounded up, and doubled: one too many.
        return super().forward(x)[..., : size[0], : size[1]]


class _Attention2dDownsample(_ResizedBiases, Attention2dDownsample):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.resolution, self.resolution2 = tuple(x.shape[-2:]), _halved(x.shape[-2:])
        self.N = self.keys = math.prod(self.resolution)
        self.N2 = self.queries = math.prod(self.resolution2)
        return super().forward(x)


class _EfficientFormer(EfficientFormer):
    def forward_intermediates(
        self, x: torch.Tensor, indices: Sequence[int], **options: Any
    ) -> list[torch.Tensor]:
        # timm reshapes the tokens of the last stage to half of the map before, rounded down.
        last = self.num_stages - 1
        if last not in indices:
            return super().forward_intermediates(x, indices, **options)
        before = [index for index in indices if index < last]
        x, maps = super().forward_intermediates(x, [*before, last - 1], stop_early=True)
        tokens = self.stages[last](x)
        return [*maps[: len(before)], tokens.mT.unflatten(2, _halved(x.shape[-2:]))]


def _halved(size: Sequence[int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


_ANY_SIZE: dict[type, Any] = {
    cls.__bases__[-1]: cls for cls in (_Attention, _Attention2d, _Attention2dDownsample, _EfficientFormer)
}
