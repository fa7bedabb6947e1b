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

    7x7 depthwise convolutions are split by rows, as for ExecuTorch, which also uses XNNPACK. int8 quantises
    convolutions and linear layers statically, with ranges of the calibration images.
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
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    recipe, kinds = recipe_manager.RecipeManager(), qtyping.TFLOperationName
    for kind in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED):
        recipe.add_static_config('.*', kind, activation_num_bits=8, weight_num_bits=8)
    # By default it averages the ranges of the images, so that classes with large activations are clipped.
    ranges = calibrator.Calibrator(str(file), qsv_update_func=min_max_update)
    ranges.calibrate({'serving_default': [{'args_0': image.numpy()} for image in calibration]}, recipe)
    quantized = quantizer.Quantizer(str(file), recipe.get_quantization_recipe())
    quantized.quantize(ranges.get_model_qsvs()).export_model(str(file), overwrite=True)
