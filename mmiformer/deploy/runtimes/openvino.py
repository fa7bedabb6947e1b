"""OpenVINO files: .xml, with the weights in a .bin beside it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mmiformer.deploy.runtimes.base import ExportOptions, Graph, Runtime, Session, trace

_MARK = ['mmiformer', 'precision']


class OpenVino(Runtime):
    """OpenVINO on the CPU.

    It would compute in bf16 on a CPU that can, whatever the file: so the file says in which precision it is
    meant. fp16 has weights in half precision and computes in float32, bf16 the other way round; int8 is
    nncf's static quantisation, with ranges read off the calibration images.
    """

    name = 'openvino'
    suffix = '.xml'
    weights_suffix = '.bin'
    modules = ('openvino', 'nncf')
    precisions = ('fp32', 'fp16', 'bf16', 'int8')
    dynamic = True

    def write(self, program: Any, order: ExportOptions, file: Path) -> None:
        """Writes the file, and one of the same name that ends in .bin."""
        import nncf
        import openvino

        model = openvino.convert_model(trace(program, order))
        model.inputs[0].get_tensor().set_names({'image'})
        for port, name in zip(model.outputs, program.outputs, strict=True):
            port.get_tensor().set_names({name})
        if order.precision == 'int8':
            images = [image.numpy() for image in order.calibration]
            model = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
        model.set_rt_info(order.precision, _MARK)
        openvino.save_model(model, file, compress_to_fp16=order.precision == 'fp16')

    def open(self, file: Path, threads: int | None = None) -> Session:
        """Loads a file; the session takes and gives numpy arrays."""
        import openvino

        core = openvino.Core()
        model = core.read_model(file)
        marked = model.has_rt_info(_MARK) and model.get_rt_info(_MARK).astype(str) == 'bf16'
        settings: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'bf16' if marked else 'f32'}
        if threads:
            settings['INFERENCE_NUM_THREADS'] = threads
        compiled = core.compile_model(model, 'CPU', settings)

        def run(image: np.ndarray) -> list[np.ndarray]:
            results = compiled(image)
            return [np.array(results[port]) for port in compiled.outputs]  # Copies: the buffers are reused.

        return run

    def inspect(self, file: Path) -> Graph:
        """Operators, without constants."""
        import openvino

        # Weights, and what only prepares them, are none of the network's tensors.
        model = openvino.Core().read_model(file)
        operators = [
            operator for operator in model.get_ordered_ops() if operator.get_type_name() != 'Constant'
        ]
        fed: set[str] = set()
        for operator in operators:
            sources = {value.get_node().get_name() for value in operator.input_values()}
            if operator.get_type_name() == 'Parameter' or sources & fed:
                fed.add(operator.get_name())
        ranks = [
            port.get_partial_shape().rank.get_length()
            for operator in operators
            if operator.get_name() in fed
            for port in operator.outputs()
            if port.get_partial_shape().rank.is_static
        ]
        return Graph(Counter(operator.get_type_name() for operator in operators), max(ranks))
