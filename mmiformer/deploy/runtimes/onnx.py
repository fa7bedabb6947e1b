"""ONNX files, run by ONNX Runtime."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmiformer.deploy.detectors import onnx_translations
from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session, trace
from mmiformer.utils.errors import UserError

OPSET = 20  # The first with GELU as one operator; ONNX Runtime takes twice as long without it.


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU; standard operators of opset 20 only.

    fp16 has weights and arithmetic in half precision, but inputs and outputs in fp32. int8 quantises
    convolutions and linear layers statically in QDQ form, per channel, with ranges of the calibration images.
    """

    name = 'onnx'
    suffix = '.onnx'
    modules = ('onnx', 'onnxscript', 'onnxruntime')
    precisions = ('fp32', 'fp16', 'int8')
    dynamic = True
    suppression = True

    def export(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """See :meth:`Runtime.export`; detectors are refused in fp16."""
        if options.precision == 'fp16' and 'boxes' in wrapper.outputs:
            problem = 'boxes that are shifted by class do not fit into half precision'
            raise UserError('--precision fp16', problem, 'use fp32, int8, or --to openvino')
        super().export(wrapper, options, file)

    def write(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """See :meth:`Runtime.write`; the file contains the weights."""
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        write_onnx(wrapper, options, file)
        if options.precision == 'int8':
            _quantize(file, options.calibration)
        elif options.precision == 'fp16':
            model = convert_float_to_float16(onnx.load(file), keep_io_types=True)
            # It adds the same cast of a constant twice where two operators use it.
            nodes = list({node.output[0]: node for node in model.graph.node}.values())
            del model.graph.node[:]
            model.graph.node.extend(nodes)
            onnx.save(model, file)

    def open(self, file: Path, threads: int | None = None) -> Session:
        """See :meth:`Runtime.open`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
        (given,) = session.get_inputs()
        pixels = given.type == 'tensor(uint8)'
        return Session(lambda image: session.run(None, {'image': image}), given.shape, pixels)

    def inspect(self, file: Path) -> Counter[str]:
        """See :meth:`Runtime.inspect`; with their domain, unless it is ONNX's own."""
        import onnx

        nodes = onnx.load(file, load_external_data=False).graph.node
        return Counter(f'{node.domain}::{node.op_type}'.removeprefix('::') for node in nodes)


def write_onnx(wrapper: Any, options: ExportOptions, file: Path) -> None:
    """Writes a wrapper in fp32; see :meth:`Runtime.write`."""
    exported = torch.onnx.export(
        trace(wrapper, options),
        custom_translation_table=onnx_translations(),
        dynamo=True,
        opset_version=OPSET,
        input_names=['image'],
        output_names=list(wrapper.outputs),
        verbose=False,
    )
    assert exported is not None
    exported.save(file)


def _quantize(file: Path, calibration: Sequence[torch.Tensor]) -> None:
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(q.CalibrationDataReader):
        images = iter(calibration)

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
        # Attention stays in float: its products in int8 quadruple the error of iFormer.
        op_types_to_quantize=['Conv', 'Gemm'],
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )
