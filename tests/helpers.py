"""What tests of several folders share."""

import importlib.util
import os
import struct
import sys
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

CONFIG = 'configs/detection/maskrcnn_iformer_t_coco.py'
# An IFormer of a block or two of each kind, with windows and without: exporters take longer for a whole T.
SMALL_IFORMER = dict(
    dims=(16, 32, 64, 64),
    depths=((1, 0, 0), (1, 0, 0), (1, 2, 1), (0, 1, 0)),
    conv_ratio=2,
    ffn_ratio=2,
    qk_divisor=(1, 1, 2, 4),
    windowed=1,
)
# Half of this Mask R-CNN's parameters are in a layer of its box head, and so half of a checkpoint.
NARROW = {'model.roi_head.bbox_head.fc_out_channels': 64}
# A run that is over in seconds: tiny images, few of them, few steps, few regions.
SHORT = (
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.logger.interval=1',
    'log_processor.window_size=1',  # A resumed run's means begin anew.
    'train_dataloader.batch_size=2',
    'train_dataloader.dataset.indices=8',
    'val_dataloader.dataset.indices=2',
    'test_dataloader.dataset.indices=2',
    'train_dataloader.dataset.pipeline.2.scale=(96,96)',
    'val_dataloader.dataset.pipeline.1.scale=(96,96)',
    'test_dataloader.dataset.pipeline.1.scale=(96,96)',
    'model.train_cfg.rpn_proposal.max_per_img=50',
    'model.train_cfg.rcnn.sampler.num=8',
    'model.test_cfg.rpn.max_per_img=20',
    'model.test_cfg.rcnn.max_per_img=5',
    *(f'{key}={value}' for key, value in NARROW.items()),
)
SHORT_SEG = (
    *SHORT[:9],
    'train_dataloader.dataset.pipeline.2.scale=(96,96)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'model.data_preprocessor.size=(64,64)',
)

# Files of the authors' release v0.9: distilled where there is one.
WEIGHTS = dict(
    t='iFormer_t.pth',
    s='iFormer_s.pth',
    m='iFormer_m_distill.pth',
    l='iFormer_l_distill.pth',
    l2='iFormer_l2_distill.pth',
)


class Bomb:
    """Pickles to a call that makes a folder: what a hostile checkpoint does on loading."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def png_of(width: int, height: int) -> bytes:
    """A PNG that declares a size and ends after a few pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'\0' * 99)) + chunk(b'IEND', b'')


def trained_looking(model: nn.Module) -> nn.Module:
    """Gives norms, biases and layer scales in ``model``, in place, values unlike those of a fresh network."""
    for name, tensor in model.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.normal_(float(name.endswith('weight')), 0.2)
        elif name.endswith('gamma'):
            tensor.normal_(0.5, 0.1)
    return model.eval()


def same(a: object, b: object) -> bool:
    """Whether nested containers hold the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def forget_visualizers() -> None:
    """Lets a run make its own: mmengine's outlive the run before, with their files."""
    from mmengine.visualization import Visualizer

    for kind in (Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()


def call_tool(
    file: Path, arguments: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> tuple[int, str, str]:
    """Runs a tool's main with arguments; returns exit code, stdout, stderr."""
    from mmiformer.apis import cli

    # As of a script that Python is given. Not by monkeypatch, which would also take back what others append:
    # onnxruntime.transformers its own folder, from which it imports later.
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(f'tool_{file.stem}', file)
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, 'argv', [file.name, *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        spec.loader.exec_module(tool)  # It reads the arguments.
        cli.run(tool.main)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.path.remove(str(file.parent))
    out = capsys.readouterr()
    return code, out.out, out.err
