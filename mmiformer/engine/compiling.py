"""``torch.compile`` for training."""

import os
import shutil
import sys
from typing import Any

import torch
from torch import nn

from mmiformer.models.backbones.base import Backbone
from mmiformer.utils.errors import UserError


def compile_blocks(model: nn.Module, backend: str = 'inductor') -> None:
    """Compiles each block of a model's backbone when it first runs; names of weights stay as they are.

    It is for images of one size and compiles again at each new one: torch 2.13 fails to compile attention at
    any size. Blocks of one kind and shape share their code, which the backbone as a whole could not.

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
    # Kinds and shapes of blocks, in training and in evaluation; beyond the limit they run as they are.
    torch._dynamo.config.recompile_limit = 64
    stage: Any
    for stage in backbone.stages:
        for block in stage.blocks:
            block.compile(dynamic=False, backend=backend)
