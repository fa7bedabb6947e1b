"""``torch.compile`` for backbones."""

import os
import shutil
import sys
from typing import Any

import torch
from torch import nn

from mmiformer.models.backbones.base import Backbone
from mmiformer.utils.errors import UserError


def compile_backbone(model: nn.Module, dynamic: bool, backend: str = 'inductor') -> None:
    """Compiles the backbone of a model when it first runs; names of weights stay as they are.

    Of a backbone of this package the blocks are compiled, one by one: those of one kind and shape share their
    code, so that it takes a fraction of the time of the whole.

    Args:
        model: A detector, segmentor or classifier, or a backbone.
        dynamic: Whether the code is for images of any size. Otherwise each new size is compiled again, as it
            must be for training: torch 2.13 fails to compile the gradient of attention for any size.
        backend: Of ``torch.compile``.

    Raises:
        UserError: If no C++ compiler is found.
    """
    compiler = os.environ.get('CXX', 'clang++' if sys.platform == 'darwin' else 'g++')  # As torch finds it.
    if backend == 'inductor' and shutil.which(compiler) is None:
        raise UserError('--compile', f'the C++ compiler {compiler} is not found', 'install it, or set CXX')
    # Kinds and shapes of blocks, in training and in evaluation; beyond the limit they run as they are.
    torch._dynamo.config.recompile_limit = 64
    backbone: Any = getattr(model, 'backbone', model)
    ours = isinstance(backbone, Backbone)
    parts = [block for stage in backbone.stages for block in stage.blocks] if ours else [backbone]
    for part in parts:
        part.compile(dynamic=dynamic, backend=backend)
