"""Feature maps of timm's networks, to compare with ours. Needs mmpretrain and timm."""

from collections.abc import Sequence
from typing import Any

import timm  # noqa: F401  mmpretrain reports its absence only when a network is built.
import torch
from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from mmiformer.checkpoints import read
from mmiformer.models.backbones.base import differences, freeze_statistics
from mmiformer.utils.errors import UserError


class TIMMFeatures(TIMMBackbone):
    """mmpretrain's ``TIMMBackbone`` with ``init_cfg`` and ``norm_eval`` as in other mm backbones.

    mmpretrain's reads no ``init_cfg`` of timm's weights and has no ``norm_eval``. (Nor can BatchNorm become
    SyncBN: mmengine's conversion drops the activations inside of timm's norms.) Configs name this class by
    its import path, so that importing mmiformer does not need mmpretrain.

    Args:
        model_name: timm's name of the network.
        out_indices: timm's numbers of the maps to return, for most networks 0..4 for strides 2 to 32.
        norm_eval: Whether timm's BatchNorms use their stored statistics in training too. Defaults to False.
        out_norm_cfg: Config of a norm after each map; ``norm_eval`` does not apply to it. Defaults to None,
            no norm.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` with timm's weights of this network, or
            None for timm's random initialisation. Defaults to None.
        kwargs: Further arguments of ``timm.create_model``.

    Raises:
        UserError: If the file cannot be read or does not fit.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int],
        norm_eval: bool = False,
        out_norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model_name, features_only=True, out_indices=tuple(out_indices), init_cfg=init_cfg, **kwargs
        )
        self.model_name = model_name
        self.norm_eval = norm_eval
        self.out_channels = tuple(self.timm_model.feature_info.channels())
        self.out_norms = nn.ModuleList(
            build_norm_layer(out_norm_cfg, channels)[1] if out_norm_cfg else nn.Identity()
            for channels in self.out_channels
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to one N x C x h x w per out index, as timm's network sizes them."""
        return tuple(
            norm(features) for norm, features in zip(self.out_norms, super().forward(x), strict=True)
        )

    def init_weights(self) -> None:
        """Loads the file of ``init_cfg``; without one timm's random initialisation stays."""
        if self.init_cfg:
            self._load(self.init_cfg['checkpoint'])
        self._is_init = True

    def train(self, mode: bool = True) -> 'TIMMFeatures':
        """Sets the mode; with ``norm_eval`` timm's BatchNorms stay in eval mode."""
        super().train(mode)
        if self.norm_eval:
            freeze_statistics(self.timm_model)
        return self

    def _load(self, file: str) -> None:
        # Some of timm's feature extractors flatten containers: a.0.b becomes a_0.b. Others wrap the network.
        weights = {key.replace('.', '_'): value for key, value in read(file).state_dict.items()}
        network: nn.Module = getattr(self.timm_model, 'model', None) or self.timm_model
        own = network.state_dict()
        given = {k: weights[k.replace('.', '_')] for k in own if k.replace('.', '_') in weights}
        if faults := differences(own, given):
            raise UserError(
                file,
                f"does not fit timm's {self.model_name}: {faults[0]}",
                'use the file that belongs to the config',
            )
        network.load_state_dict(given)
        print_log(
            f"{file}: {len(given)} tensors loaded into timm's {self.model_name}; "
            f'{len(weights) - len(given)} others, of layers after the maps, are not used.',
            logger='current',
        )
