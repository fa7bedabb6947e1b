"""``torch.compile`` for training."""

import os
import shutil
import sys

import torch
from torch import nn

from mmiformer.models.backbones.base import Backbone
from mmiformer.utils.errors import UserError


def compile_blocks(model: nn.Module, backend: str = 'inductor') -> None:
    """Compiles each block of a model's backbone when it first runs; names of weights stay as they are.

    Blocks of one kind and width share their code, at any image size. Compiling the backbone as a whole takes
    several times as long for a single size, and fails in torch 2.13 at the second one.

    Args:
        model: A detector, segmentor or classifier with a backbone of this package.
        backend: Of ``torch.compile``.

    Raises:
        UserError: If it has another backbone, or no C++ compiler is found.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, Backbone):
        raise UserError('--compile', 'the backbone is not one of mmiformer', 'remove it')
    compiler = os.environ.get('CXX', 'clang++' if sys.platform == 'darwin' else 'g++')  # As torch finds it.
    if shutil.which(compiler) is None:
        raise UserError('--compile', f'the C++ compiler {compiler} is not found', 'install it, or set CXX')
    # Kinds and widths of blocks, in training and in evaluation; torch's limit is 8.
    torch._dynamo.config.recompile_limit = 64
    for stage in backbone.stages:
        for block in stage.blocks:
            block.compile(dynamic=True, backend=backend)
