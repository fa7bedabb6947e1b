"""ncnn: Tencent's runtime for phones, on the CPU and through Vulkan."""

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmiformer.deploy.runtimes.base import ExportOptions, Graph, Runtime, Session
from mmiformer.utils.errors import UserError


class NCNN(Runtime):
    """Writes a ``.param`` file, the graph, and a ``.bin`` file of the same name, the weights, by pnnx.

    A program that takes pixels (:class:`~mmiformer.deploy.wrappers.FromPixels`) becomes one that takes what
    ncnn's ``Mat::from_pixels`` makes of them. ncnn takes one image at a time.
    """

    name = 'ncnn'
    suffix = '.param'
    weights_suffix = '.bin'
    modules = ('ncnn', 'pnnx')
    precisions = ('fp32', 'fp16')
    planar_pixels = True

    def check(self, order: ExportOptions, detector: bool = False) -> None:
        """Raises a :class:`UserError` if there are no such files."""
        super().check(order, detector)
        if len(order.example) > 1:
            raise UserError(f'batch of {len(order.example)}: ncnn takes one image at a time.')

    def write(self, program: Any, order: ExportOptions, file: Path) -> None:
        """Writes a program; the weights go to the file beside it that ends in ``.bin``."""
        import pnnx

        _trace(program, order.example).save(str(file.with_name('traced.pt')))
        settings = dict(
            inputshape=f'[{",".join(map(str, order.example.shape))}]',
            fp16=int(order.precision == 'fp16'),
            ncnnparam=file.name,
            ncnnbin=file.with_suffix('.bin').name,
        )
        command = [pnnx.EXEC_PATH, 'traced.pt', *(f'{key}={value}' for key, value in settings.items())]
        subprocess.run(command, cwd=file.parent, capture_output=True, check=True)
        # pnnx succeeds with what ncnn has no layer for: such are written by torch's names.
        foreign = sorted(layer for layer in self.inspect(file).operators if '.' in layer or '::' in layer)
        if foreign:
            raise UserError(f'ncnn: has no layer for {", ".join(foreign)} of this network.')

    def open(self, file: Path, threads: int | None = None) -> Session:
        """Loads a file and its weights; those of an fp16 file are computed with in fp16 where the CPU can."""
        import ncnn

        net = ncnn.Net()
        if threads is not None:
            net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        if not _is_half(file.with_suffix('.bin')):
            # By default ncnn halves what it is given wherever that is faster.
            net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
            net.opt.use_bf16_storage = False
        if net.load_param(str(file)) or net.load_model(str(file.with_suffix('.bin'))):
            raise UserError(f'{file}: is no file that ncnn can load, or {file.stem}.bin beside it is not.')

        def run(image: np.ndarray) -> list[np.ndarray]:
            if len(image) != 1:
                raise UserError(f'batch of {len(image)}: ncnn takes one image at a time.')
            if image.dtype == np.uint8:
                height, width = image.shape[1:3]
                mat = ncnn.Mat.from_pixels(
                    np.ascontiguousarray(image[0]), ncnn.Mat.PixelType.PIXEL_RGB, width, height
                )
            else:
                mat = ncnn.Mat(np.ascontiguousarray(image[0]))
            with net.create_extractor() as extractor:
                extractor.input('in0', mat)
                outputs = [extractor.extract(f'out{i}') for i in range(len(net.output_names()))]
                if any(status for status, _ in outputs):
                    raise UserError(f'{file}: ncnn cannot run it on an image of shape {image.shape}.')
                return [np.array(output)[None] for _, output in outputs]

        return run

    def inspect(self, file: Path) -> Graph:
        """Counts layers; the file says nothing of ranks, and ncnn knows none above 4."""
        # First a magic number, then the number of layers and blobs, then a line for each layer.
        return Graph(Counter(line.split()[0] for line in file.read_text().splitlines()[2:]))


def _trace(program: nn.Module, example: torch.Tensor) -> torch.jit.ScriptModule:
    """TorchScript of a graph of fixed sizes: pnnx crashes on sizes computed where windows are but one."""
    exported = torch.export.export(program, (example,)).module()
    for node in list(exported.graph.nodes):
        if node.target == '_guards_fn':  # Python code that checks sizes.
            exported.graph.erase_node(node)
    exported.recompile()
    with torch.no_grad():
        traced: torch.jit.ScriptModule = torch.jit.trace(exported, example, check_trace=False)
    return traced


# What ncnn writes before weights that are stored in half precision.
_HALF_TAG = (0x01306B47).to_bytes(4, 'little')


def _is_half(weights: Path) -> bool:
    with weights.open('rb') as file:
        return file.read(4) == _HALF_TAG
