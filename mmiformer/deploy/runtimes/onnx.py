"""ONNX files, run by ONNX Runtime."""

import ast
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmiformer.deploy.detectors import onnx_translations
from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session, trace

OPSET = 20  # The first with GELU as one operator; ONNX Runtime takes twice as long without it.


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU; standard operators of opset 20 only.

    fp16 has weights and arithmetic in half precision, but inputs and outputs in fp32, and of a detector all
    that the wrapper computes: boxes need more than the 11 bits of half precision. int8 quantises
    convolutions and linear layers statically in QDQ form, per channel, with ranges of the calibration images.
    """

    name = 'onnx'
    suffix = '.onnx'
    modules = ('onnx', 'onnxscript', 'onnxruntime')
    precisions = ('fp32', 'fp16', 'int8')
    dynamic = True
    suppression = True

    def write(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """See :meth:`Runtime.write`; the file contains the weights."""
        import onnx

        model = onnx_model(wrapper, options)
        if options.precision == 'fp16':
            model = halved(model)
        onnx.save(model, file)
        if options.precision == 'int8':
            _quantize(file, options.calibration)

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


def onnx_model(wrapper: Any, options: ExportOptions) -> Any:
    """A wrapper in fp32, in ONNX's form; see :meth:`Runtime.write`."""
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
    model = exported.model_proto
    if wrapper.outputs == ('labels',):
        put_classes_last(model)
    return model


def put_classes_last(model: Any) -> None:
    """Resizes and compares the logits of a segmentor, in place, as N x H x W x classes: the same labels.

    ONNX Runtime takes five times as long where the classes lie apart, which with 150 of them was most of the
    time of a light segmentor.
    """
    import onnx
    from onnx import helper

    graph, order = model.graph, (0, 2, 3, 1)
    resized = {node.output[0]: node for node in graph.node if node.op_type == 'Resize'}
    for node in list(graph.node):
        resize = resized.get(node.input[0]) if node.op_type == 'ArgMax' else None
        if resize is None:
            continue
        last = f'{resize.input[0]}_classes_last'
        added = [helper.make_node('Transpose', [resize.input[0]], [last], perm=order)]
        resize.input[0] = last
        graph.initializer.append(helper.make_tensor(f'{last}_order', onnx.TensorProto.INT64, [4], order))
        for index in (2, 3):  # Scales or sizes.
            if index < len(resize.input) and resize.input[index]:
                former, resize.input[index] = resize.input[index], f'{last}_{index}'
                added.append(helper.make_node('Gather', [former, f'{last}_order'], [f'{last}_{index}']))
        node.attribute[[a.name for a in node.attribute].index('axis')].i = 3
        place = list(graph.node).index(resize)
        for new in reversed(added):
            graph.node.insert(place, new)
        for value in [v for v in graph.value_info if v.name == resize.output[0]]:
            graph.value_info.remove(value)  # Its shape has changed.


def computes_boxes(node: Any) -> bool:
    """Whether an operator of an ONNX graph is a detector wrapper's own, which stays in fp32.

    torch.onnx stores the classes of the modules with each.
    """
    stored = {entry.key: entry.value for entry in node.metadata_props}
    *_, innermost, _ = ast.literal_eval(stored.get('pkg.torch.onnx.class_hierarchy', "['', '']"))
    return innermost.startswith(('mmiformer.deploy.detectors', 'mmiformer.deploy.rtmdet'))


def halved(model: Any) -> Any:
    """A model in half precision, all but its inputs and outputs and what computes boxes."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    def casts(node: Any, to: int) -> bool:
        return node.op_type == 'Cast' and node.attribute[0].i == to

    boxes = [node.name for node in model.graph.node if computes_boxes(node)]
    model = convert_float_to_float16(model, keep_io_types=True, node_block_list=boxes)
    graph = model.graph
    # It adds the same cast of a constant twice where two operators use it, and casts to half precision and
    # back between two operators in fp32.
    nodes = {node.output[0]: node for node in graph.node}
    for node in nodes.values():
        before = nodes.get(node.input[0]) if casts(node, onnx.TensorProto.FLOAT) else None
        if before is not None and casts(before, onnx.TensorProto.FLOAT16):
            node.input[0] = before.input[0]
    used = {name for node in nodes.values() for name in node.input} | {port.name for port in graph.output}
    del graph.node[:]
    graph.node.extend(node for node in nodes.values() if used & set(node.output))
    return model


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
