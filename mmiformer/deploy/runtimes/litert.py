"""LiteRT, formerly TensorFlow Lite: Google's runtime of Android, on the CPU through XNNPACK."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmiformer.deploy.rewriting import split_depthwise
from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session


class LiteRT(Runtime):
    """Writes ``.tflite`` files.

    7x7 depthwise convolutions are split by rows, as for ExecuTorch, which also uses XNNPACK. int8 is static,
    per channel, with ranges of the calibration images; inputs and outputs stay fp32.
    """

    name = 'litert'
    suffix = '.tflite'
    modules = ('litert_torch', 'ai_edge_litert', 'ai_edge_quantizer')
    precisions = ('fp32', 'int8')

    def write(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """See :meth:`Runtime.write`."""
        import litert_torch

        split_depthwise(wrapper)
        litert_torch.convert(wrapper, (options.example,)).export(str(file))
        if options.precision == 'int8':
            _quantize(file, options.calibration)

    def open(self, file: Path, threads: int | None = None) -> Session:
        """See :meth:`Runtime.open`."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file), num_threads=threads)
        interpreter.allocate_tensors()
        (given,) = interpreter.get_input_details()
        runner = interpreter.get_signature_runner()

        def run(image: np.ndarray) -> list[np.ndarray]:
            outputs = runner(args_0=image)
            return [outputs[f'output_{i}'] for i in range(len(outputs))]

        return Session(run, given['shape'].tolist(), given['dtype'] == np.uint8)

    def inspect(self, file: Path) -> Counter[str]:
        """See :meth:`Runtime.inspect`."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file))
        return Counter(operator['op_name'] for operator in interpreter._get_ops_details())


def _quantize(file: Path, calibration: Sequence[torch.Tensor]) -> None:
    from ai_edge_quantizer import quantizer, recipe

    quantized = quantizer.Quantizer(str(file), recipe.static_wi8_ai8())
    ranges = quantized.calibrate({'serving_default': [{'args_0': image.numpy()} for image in calibration]})
    quantized.quantize(ranges).export_model(str(file), overwrite=True)
