"""Times operators in PyTorch beside mmcv's compiled ones: ``python tools/time_operators.py [--whole]``."""

import argparse


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Time mmiformer's operators beside mmcv's compiled ones, on a CPU."
    )
    parser.add_argument('--compiled', help="file of mmcv's extension, _ext*.so (default: the installed one)")
    parser.add_argument('--threads', type=int, default=1, help='threads of PyTorch (default: 1)')
    parser.add_argument('--runs', type=int, default=7, help='runs of each, in turn (default: 7)')
    parser.add_argument('--whole', action='store_true', help='time Mask R-CNN with iFormer-M instead')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from rich.console import Console
from rich.table import Table

import mmiformer
from mmiformer.apis import cli
from mmiformer.apis.inference import bare_model
from mmiformer.benchmark.timing import summarise, time_rounds
from mmiformer.ops.extension import TorchExtension
from mmiformer.utils.cpu import prepare_for_cpu, use_channels_last
from mmiformer.utils.errors import UserError

WIDTH, HEIGHT, CHANNELS = 1333, 800, 256
STRIDES = (4, 8, 16, 32)
CONFIG = Path(mmiformer.__file__).parents[1] / 'configs/detection/maskrcnn_iformer_m_coco.py'


def main() -> None:
    """Prints a table of medians."""
    args = parse_args()
    compiled = compiled_extension(args.compiled)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    table = Table(title=f'{args.threads} threads, medians of {args.runs} runs in turn')
    for column in ('', 'compiled, ms', 'PyTorch, ms', 'ratio of pairs'):
        table.add_column(column, justify='left' if not column else 'right')
    cases = whole_models if args.whole else single_operators
    for name, theirs, ours in cases(compiled, TorchExtension('for comparison')):
        latencies = summarise(time_rounds([theirs, ours], args.runs, seconds=0.001), [None, 0])
        row = (name, *(f'{1000 * x.median:.1f}' for x in latencies), f'{latencies[1].ratio:.3f}')
        print('  '.join(row), file=sys.stderr, flush=True)  # The table comes at the end, after some minutes.
        table.add_row(*row)
    Console().print(table)


def compiled_extension(file: str | None) -> ModuleType:
    """mmcv's compiled extension, loaded from a file or as installed."""
    if file is None:
        module = importlib.import_module('mmcv._ext')
        if isinstance(module, TorchExtension):
            raise UserError(
                'mmcv',
                'the installed one has no compiled operators to compare with',
                'name the _ext*.so of another with --compiled',
            )
        return module
    spec = importlib.util.spec_from_file_location('compiled._ext', file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise UserError(f'--compiled {file}: expected the file _ext*.so of an mmcv with compiled operators.')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Case = tuple[str, Callable[[], object], Callable[[], object]]


def single_operators(compiled: ModuleType, ours: ModuleType) -> Iterator[Case]:
    """RoIAlign at the sizes of Mask R-CNN, and NMS."""
    for count, size, backward in ((1000, 7, False), (128, 14, False), (512, 7, True), (128, 14, True)):
        for stride in STRIDES:
            features = torch.randn(1, CHANNELS, HEIGHT // stride, -(-WIDTH // stride))
            rois, grad = rois_of_level(count, stride), torch.randn(count, CHANNELS, size, size)
            call = partial(pool, rois=rois, stride=stride)
            theirs = partial(call, compiled, features.requires_grad_(backward), grad)
            for layout in (torch.contiguous_format, torch.channels_last):
                name = f'RoIAlign {count} x {size}x{size}, stride {stride}'
                name += ' and gradient' * backward + ', channels-last' * (layout is torch.channels_last)
                own = features.detach().to(memory_format=layout).requires_grad_(backward)
                yield name, theirs, partial(call, ours, own, grad.to(memory_format=layout))
    for count in (1000, 2000, 4000):
        for kind in ('sparse', 'crowded'):
            boxes, scores = boxes_for_nms(count, kind == 'crowded'), torch.rand(count)
            compiled_nms, our_nms = (
                partial(extension.nms, boxes, scores, iou_threshold=0.7, offset=0)
                for extension in (compiled, ours)
            )
            yield f'NMS of {count}, {kind}, {len(compiled_nms())} kept', compiled_nms, our_nms


def rois_of_level(count: int, stride: int) -> torch.Tensor:
    """RoIs of the sizes that mmdet pools from a level: sides of 56 to 112 pixels at stride 8, and so on."""
    low = 16 if stride == 4 else 14 * stride
    high = 800 if stride == 32 else 28 * stride
    side = low * (high / low) ** torch.rand(count)
    aspect = torch.exp(1.4 * (torch.rand(count) - 0.5))
    size = torch.stack([(side * aspect.sqrt()).clamp(max=WIDTH), (side / aspect.sqrt()).clamp(max=HEIGHT)], 1)
    corner = torch.rand(count, 2) * (torch.tensor([WIDTH, HEIGHT]) - size)
    return torch.cat([torch.zeros(count, 1), corner, corner + size], dim=1)


def boxes_for_nms(count: int, crowded: bool) -> torch.Tensor:
    """Boxes spread over an image, or jittered around one object in 80 boxes."""
    if crowded:
        objects = boxes_for_nms(count // 80, False)
        return objects[torch.randint(len(objects), (count,))] + 3 * torch.randn(count, 4)
    corner = torch.rand(count, 2) * torch.tensor([WIDTH, HEIGHT])
    return torch.cat([corner, corner + 16 + 64 * torch.rand(count, 2)], dim=1)


def pool(
    extension: ModuleType, features: torch.Tensor, grad: torch.Tensor, rois: torch.Tensor, stride: int
) -> None:
    """RoIAlign by mmcv's layer, and its gradient if the features want one."""
    from mmcv.ops import roi_align

    with operators(extension):
        out = roi_align(features, rois, grad.shape[2:], 1 / stride, 0, 'avg', True)
        if features.requires_grad:
            torch.autograd.grad(out, features, grad)


@contextmanager
def operators(extension: ModuleType) -> Iterator[None]:
    """Has mmcv's layers use an extension: they look it up in their modules, under this name."""
    modules: list[Any] = [sys.modules[f'mmcv.ops.{name}'] for name in ('nms', 'roi_align')]
    before = [module.ext_module for module in modules]
    try:
        for module in modules:
            module.ext_module = extension
        yield
    finally:
        for module, its_own in zip(modules, before, strict=True):
            module.ext_module = its_own


def whole_models(compiled: ModuleType, ours: ModuleType) -> Iterator[Case]:
    """Mask R-CNN with an untrained iFormer-M: an image, and a training step of one image."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    cfg = cli.load_config(str(CONFIG))
    cfg.model.backbone.init_cfg = None
    shape = (HEIGHT, WIDTH)
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1, 1)))
    boxes = boxes_for_nms(10, False)
    masks = BitmapMasks(np.ones((len(boxes), *shape), np.uint8), *shape)
    labels = torch.arange(len(boxes))
    sample.gt_instances = InstanceData(bboxes=HorizontalBoxes(boxes), labels=labels, masks=masks)
    batch = dict(inputs=[torch.randint(256, (3, HEIGHT, WIDTH), dtype=torch.uint8)], data_samples=[sample])
    model: Any = bare_model(cfg)
    model.init_weights()
    theirs, mine = copy.deepcopy(model), model
    prepare_for_cpu(mine)
    use_channels_last(theirs)

    def predict(model: Any, extension: ModuleType) -> None:
        with operators(extension), torch.no_grad():
            model.eval().test_step(copy.deepcopy(batch))

    def learn(model: Any, extension: ModuleType) -> None:
        torch.manual_seed(0)
        with operators(extension):
            data = model.train().data_preprocessor(copy.deepcopy(batch), training=True)
            model.parse_losses(model.loss(data['inputs'], data['data_samples']))[0].backward()

    for name, step in (('image', predict), ('training step', learn)):
        yield f'Mask R-CNN M, {name}', partial(step, theirs, compiled), partial(step, mine, ours)


if __name__ == '__main__':
    cli.run(main)
