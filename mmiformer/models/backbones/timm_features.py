"""Feature maps of timm's networks, as the peers of ours in a detector. Needs mmpretrain and timm."""

from collections.abc import Sequence
from typing import Any

import timm  # noqa: F401  mmpretrain would miss it only when a network is built.
import torch
from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from mmiformer.checkpoints import read
from mmiformer.models.backbones.base import hold_statistics
from mmiformer.utils.errors import UserError


class TIMMFeatures(TIMMBackbone):
    """mmpretrain's ``TIMMBackbone``, with weights and norms as mm's own backbones have them.

    mmpretrain's fetches weights while it is built, even where a checkpoint follows, and cannot hold
    BatchNorm still. (Nor can its BatchNorm be made SyncBN: mmengine's conversion drops the activations
    that timm keeps inside of its norms.) Configs name this class by its import path, so that importing
    mmiformer does not need mmpretrain.

    Args:
        model_name: timm's name of the network.
        out_indices: timm's numbers of the maps to return, for most networks 0..4 for strides 2 to 32.
        norm_eval: Whether timm's BatchNorms run on stored statistics in training too. Defaults to False.
        out_norm_cfg: Norm to put behind each map, as mmcv's ``build_norm_layer`` takes it; it starts fresh,
            so ``norm_eval`` leaves it alone. Defaults to None, no norm.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` of timm's weights of this network, or
            None for timm's own random start. Defaults to None.
        kwargs: What ``timm.create_model`` takes beside, but no weights.

    Raises:
        UserError: If the weights cannot be read, or are those of another network.
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
        if kwargs.get('pretrained') or kwargs.get('checkpoint_path'):
            raise UserError(
                f"TIMMFeatures of {model_name}: name its weights as init_cfg=dict(type='Pretrained', "
                'checkpoint=FILE_OR_URL), in place of pretrained or checkpoint_path.'
            )
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
        """Fills the network from the file of ``init_cfg``; without one timm's random start stays."""
        if self.init_cfg:
            self._load(self.init_cfg['checkpoint'])
        self._is_init = True

    def train(self, mode: bool = True) -> 'TIMMFeatures':
        """Sets the mode; with ``norm_eval`` timm's BatchNorms stay in eval mode."""
        super().train(mode)
        if mode and self.norm_eval:
            hold_statistics(self.timm_model)
        return self

    def _load(self, file: str) -> None:
        # Tapping a network, timm makes children of some of its containers' children: a.0.b becomes a_0.b.
        weights = {key.replace('.', '_'): value for key, value in read(file).state_dict.items()}
        # One that taps itself is wrapped.
        network: nn.Module = getattr(self.timm_model, 'model', None) or self.timm_model
        own = network.state_dict()
        given = {key: weights.pop(key.replace('.', '_'), None) for key in own}
        for key, value in given.items():
            if value is None or value.shape != own[key].shape:
                found = 'missing' if value is None else f'{tuple(value.shape)}'
                raise UserError(
                    file,
                    f"does not fit timm's {self.model_name}: {key} is {found} in the weights and "
                    f'{tuple(own[key].shape)} in the network',
                    'name the file that belongs to the config',
                )
        network.load_state_dict(given)
        print_log(
            f"{file}: {len(given)} tensors fill timm's {self.model_name}; {len(weights)} others, of layers "
            'that are not tapped, are left over.',
            logger='current',
        )
