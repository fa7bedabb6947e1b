import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmiformer.utils.memory import saved_bytes


def test_each_storage_counts_once_and_parameters_do_not():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.rand(32, 8)
    with saved_bytes(model) as saved:
        model(x).sum()
    # The input of the first layer, and one map that is output of the activation and input of the second.
    assert saved.bytes == 4 * 32 * (8 + 16)
    with saved_bytes(model) as saved:
        checkpoint(model, x.requires_grad_(), use_reentrant=False)
    assert saved.bytes == x.nbytes
