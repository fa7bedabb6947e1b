"""ncnn: Tencent's runtime for phones, on the CPU and through Vulkan."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session, drop_aliases
from mmiformer.deploy.wrappers import FromPixels

# ncnn writes this number before weights in half precision.
_FP16_TAG = (0x01306B47).to_bytes(4, 'little')


class NCNN(Runtime):
    """Writes a ``.param`` file, the graph, and a ``.bin`` file, the weights, by pnnx.

    A wrapper that takes pixels (:class:`~mmiformer.deploy.wrappers.FromPixels`) gets the result of ncnn's
    ``Mat::from_pixels`` as input.
    """

    name = 'ncnn'
    suffix = '.param'
    weights_suffix = '.bin'
    modules = ('ncnn', 'pnnx')
    precisions = ('fp32', 'fp16')
    candidates = None
    planar_pixels = True

    def write(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """See :meth:`Runtime.write`."""
        import pnnx

        if len(options.example) > 1:
            raise ValueError('one image at a time')
        # By way of torch.export, since pnnx crashes on computed sizes.
        exported = torch.export.export(wrapper, (options.example,))
        drop_aliases(exported.graph)
        with torch.no_grad():
            traced: Any = torch.jit.trace(exported.module(), options.example, check_trace=False)
        traced.save(str(file.with_name('traced.pt')))
        settings = dict(
            inputshape=f'[{",".join(map(str, options.example.shape))}]',
            fp16=int(options.precision == 'fp16'),
            ncnnparam=file.name,
            ncnnbin=file.with_suffix('.bin').name,
        )
        command = [pnnx.EXEC_PATH, 'traced.pt', *(f'{key}={value}' for key, value in settings.items())]
        subprocess.run(command, cwd=file.parent, capture_output=True, check=True)
        # pnnx does not fail on an operator that ncnn lacks: it writes torch's name of it.
        foreign = sorted(layer for layer in self.inspect(file) if '.' in layer or '::' in layer)
        if foreign:
            raise NotImplementedError(f'no layer for {", ".join(foreign)}')
        # pnnx drops what the input is: ncnn's own parameters, and a name for pixels.
        name = 'pixels' if isinstance(wrapper, FromPixels) else 'image'
        _, channels, height, width = options.example.shape
        line = f'Input {name} 0 1 in0 0={width} 1={height} 2={channels}'
        file.write_text(re.sub('^Input .*', line, file.read_text(), flags=re.MULTILINE))

    def open(self, file: Path, threads: int | None = None) -> Session:
        """Loads a file and its weights; an fp16 file is computed in fp16 where the CPU supports it."""
        import ncnn

        net, weights = ncnn.Net(), file.with_suffix('.bin')
        if threads is not None:
            net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        with weights.open('rb') as stream:
            if stream.read(4) != _FP16_TAG:
                # By default ncnn computes in half precision wherever that is faster.
                net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
                net.opt.use_bf16_storage = False
        net.load_param(str(file))
        net.load_model(str(weights))

        def run(image: np.ndarray) -> list[np.ndarray]:
            planar = image[0].transpose(2, 0, 1).astype(np.float32) if image.dtype == np.uint8 else image[0]
            planar = np.ascontiguousarray(planar)  # The Mat refers to its memory.
            with net.create_extractor() as extractor:
                extractor.input('in0', ncnn.Mat(planar))
                names = [f'out{i}' for i in range(len(net.output_names()))]
                return [np.array(extractor.extract(name)[1])[None] for name in names]

        given = re.search(r'^Input +(\w+) .* 0=(\d+) 1=(\d+)', file.read_text(), re.MULTILINE)
        name, width, height = given.groups() if given else ('image', None, None)
        size = [int(height), int(width)] if width and height else [None, None]
        pixels = name == 'pixels'
        return Session(run, [1, *size, 3] if pixels else [1, 3, *size], pixels)

    def inspect(self, file: Path) -> Counter[str]:
        """See :meth:`Runtime.inspect`."""
        # A magic number, then the number of layers and blobs, then one line per layer.
        return Counter(line.split()[0] for line in file.read_text().splitlines()[2:])
