"""ONNX files, run by ONNX Runtime."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmiformer.deploy.runtimes.base import ExportOptions, Graph, Runtime, Session, trace

OPSET = 20  # The first one with GELU as one operator; ONNX Runtime takes twice the time without.


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU; standard operators of opset 20 only.

    int8 is static quantisation of convolutions and linear layers in QDQ form, per channel, with ranges read
    off the calibration images.
    """

    name = 'onnx'
    suffix = '.onnx'
    modules = ('onnx', 'onnxscript', 'onnxruntime')
    precisions = ('fp32', 'fp16', 'int8')
    dynamic = True
    detectors = True

    def write(self, program: Any, order: ExportOptions, file: Path) -> None:
        """Writes one .onnx file with the weights inside."""
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        from mmiformer.deploy.detectors import onnx_translations

        exported = torch.onnx.export(
            trace(program, order),
            custom_translation_table=onnx_translations(),
            dynamo=True,
            opset_version=OPSET,
            input_names=['image'],
            output_names=list(program.outputs),
            verbose=False,
        )
        assert exported is not None
        exported.save(file)
        if order.precision == 'int8':
            _quantise(file, order)
        elif order.precision == 'fp16':  # Weights and arithmetic; input and outputs stay as they are.
            onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)

    def open(self, file: Path, threads: int | None = None) -> Session:
        """Loads a file; the session takes and gives numpy arrays."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
        return lambda image: session.run(None, {name: image})

    def inspect(self, file: Path) -> Graph:
        """Operators with their domain, where it is not ONNX's own."""
        import onnx

        model = onnx.load(file, load_external_data=False)
        graph = model.graph
        shapes = [
            len(value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.input, *graph.output)
        ]
        names = (f'{node.domain}::{node.op_type}' if node.domain else node.op_type for node in graph.node)
        return Graph(Counter(names), max(shapes))


def _quantise(file: Path, order: ExportOptions) -> None:
    """Replaces a file of float32 by one of int8."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.images: Iterator[torch.Tensor] = iter(order.calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {'image': image.numpy()}

    prepared = file.with_name('prepared.onnx')
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    q.quantize_static(
        prepared,
        file,
        Images(),
        quant_format=q.QuantFormat.QDQ,
        # The products of attention stay in float: in int8 they quadruple the error of iFormer.
        op_types_to_quantize=['Conv', 'Gemm'],
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )
