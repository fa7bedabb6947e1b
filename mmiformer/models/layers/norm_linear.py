"""The classifier of iFormer: BatchNorm and a linear layer, one of each or two that are averaged."""

import torch
from torch import nn


class NormLinear(nn.Module):
    """BatchNorm1d, then a linear layer (released code).

    Args:
        in_channels: Channels of the pooled features.
        out_channels: Classes.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm1d(in_channels)
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x in_channels to N x out_channels."""
        return self.linear(self.norm(x))

    def fold(self) -> None:
        """Moves the BatchNorm's stored statistics into the linear layer."""
        norm, linear = self.norm, self.linear
        if isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            with torch.no_grad():
                linear.bias.copy_(linear.bias.double() + linear.weight.double() @ shift)
                linear.weight.mul_(scale)
            self.norm = nn.Identity()


class AveragedHeads(nn.ModuleList):
    """Classifiers whose logits are averaged.

    Distilled networks have two, the second of which learns from the teacher (DeiT, released code).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x in_channels to N x out_channels."""
        logits = [head(x) for head in self]
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)

    def fold(self) -> None:
        """Merges the heads, which must be folded already, into one: the mean of linear maps is linear."""
        heads = list(self)
        if len(heads) > 1:
            with torch.no_grad():
                for name in ('weight', 'bias'):
                    mean = torch.stack([getattr(head.linear, name).double() for head in heads]).mean(0)
                    getattr(heads[0].linear, name).copy_(mean)
            del self[1:]
