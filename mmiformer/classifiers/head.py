"""The head of the classification networks."""

from collections.abc import Mapping
from typing import Any

import torch
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample

from mmiformer.checkpoints import MisfitError
from mmiformer.errors import UserError
from mmiformer.layers import AveragedHeads, NormLinear


class NormLinearClsHead(ClsHead):
    """Average pooling, BatchNorm and a linear layer, once or twice (iFormer's released code).

    Configs name this class by its import path, so that importing mmiformer does not need mmpretrain.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the backbone's last map.
        num_heads: 1, or 2 for distilled networks, whose logits are averaged. Defaults to 1.
        init_cfg: As mmengine takes it. Defaults to truncated normal, std 0.02, biases 0 (released code).
        kwargs: ``loss``, ``topk`` and ``cal_acc`` of mmpretrain's ``ClsHead``.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_heads: int = 1,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        init_cfg = init_cfg or dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0)
        super().__init__(init_cfg=init_cfg, **kwargs)
        if num_classes < 1 or in_channels < 1:
            raise UserError(
                f'num_classes={num_classes}, in_channels={in_channels}: expected positive integers.'
            )
        if num_heads not in (1, 2):
            raise UserError(f'num_heads={num_heads}: expected 1, or 2 for a distilled network.')
        self.num_classes = num_classes
        self.heads = AveragedHeads([NormLinear(in_channels, num_classes) for _ in range(num_heads)])
        self.register_load_state_dict_pre_hook(_check_fit)

    def pre_logits(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Pools the last map: N x in_channels x H x W to N x in_channels."""
        # Not AdaptiveAvgPool2d: mobile runtimes take this form as it is.
        return feats[-1].mean((2, 3), keepdim=True).flatten(1)

    def forward(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Logits, N x num_classes; the mean of both heads where there are two."""
        return self.heads(self.pre_logits(feats))

    def each_forward(self, feats: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """Logits of each head, N x num_classes."""
        pooled = self.pre_logits(feats)
        return [head(pooled) for head in self.heads]

    def loss_of(self, cls_score: torch.Tensor, data_samples: list[DataSample]) -> torch.Tensor:
        """Loss of logits (N x num_classes) against the samples' labels, or scores where they are mixed."""
        return self._get_loss(cls_score, data_samples)['loss']


def _check_fit(head: NormLinearClsHead, state_dict: Mapping[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Raises where a checkpoint's classifier is another one, which lenient loading would leave at random."""
    shapes = [v.shape for k, v in state_dict.items() if k.startswith(prefix) and k.endswith('linear.weight')]
    if not shapes:
        return  # Nothing of a head: a backbone's own weights, which the backbone judges.
    own = (len(head.heads), head.num_classes)
    if len(shapes) != own[0]:
        raise MisfitError(
            f'the weights have {len(shapes)} classifiers and the config num_heads={own[0]}; use the config '
            f'{"with" if len(shapes) == 2 else "without"} "distill" in its name.'
        )
    if shapes[0][0] != own[1]:
        raise MisfitError(
            f"the weights' classifier has {shapes[0][0]} classes and the config's head num_classes={own[1]}; "
            'set num_classes to it, or to train other classes start from the backbone alone '
            '(model.backbone.init_cfg).'
        )
