"""OpenVINO files: .xml, with the weights in a .bin beside it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session, trace
from mmiformer.deploy.runtimes.onnx import onnx_model

_PRECISION = ['mmiformer', 'precision']  # Key of our entry in the file's metadata.


class OpenVino(Runtime):
    """OpenVINO on the CPU.

    fp16 has weights in half precision and computes in fp32, bf16 the other way round; int8 is nncf's static
    quantisation, with ranges of the calibration images. OpenVINO by default computes any file in bf16 where
    the CPU supports it, so the file stores its precision.
    """

    name = 'openvino'
    suffix = '.xml'
    weights_suffix = '.bin'
    modules = ('openvino', 'onnxscript')
    quantizers = ('nncf',)
    precisions = ('fp32', 'fp16', 'bf16', 'int8')
    dynamic = True
    suppression = True

    def write(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """See :meth:`Runtime.write`."""
        import onnx
        import openvino

        if 'boxes' in wrapper.outputs:  # With operators of ours, which have a form in ONNX.
            onnx.save(onnx_model(wrapper, options), file.with_suffix('.onnx'))
            model = openvino.convert_model(file.with_suffix('.onnx'))
        else:
            model = openvino.convert_model(trace(wrapper, options))
        model.inputs[0].get_tensor().set_names({'image'})
        for port, name in zip(model.outputs, wrapper.outputs, strict=True):
            port.get_tensor().set_names({name})
        if options.precision == 'int8':
            import nncf

            images = [image.numpy() for image in options.calibration]
            # As in ONNX, convolutions alone: with all that nncf quantises, RTMDet-Ins loses 2 points of AP.
            kept = nncf.IgnoredScope(types=['Add', 'Multiply', 'MatMul'], validate=False)
            from nncf.quantization.range_estimator import RangeEstimatorParametersSet

            # By default it averages the ranges of the images, which clips classes with large activations.
            ranges = nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            )
            model = nncf.quantize(
                model,
                nncf.Dataset(images),
                subset_size=len(images),
                ignored_scope=kept,
                advanced_parameters=ranges,
            )
        model.set_rt_info(options.precision, _PRECISION)
        openvino.save_model(model, file, compress_to_fp16=options.precision == 'fp16')

    def open(self, file: Path, threads: int | None = None) -> Session:
        """See :meth:`Runtime.open`."""
        import openvino

        core = openvino.Core()
        model = core.read_model(file)
        bf16 = model.has_rt_info(_PRECISION) and model.get_rt_info(_PRECISION).astype(str) == 'bf16'
        settings: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'bf16' if bf16 else 'f32'}
        if threads:
            settings['INFERENCE_NUM_THREADS'] = threads
        compiled = core.compile_model(model, 'CPU', settings)

        def run(image: np.ndarray) -> list[np.ndarray]:
            results = compiled(image)
            return [np.array(results[port]) for port in compiled.outputs]  # Copies: the buffers are reused.

        given = model.inputs[0]
        shape = [side.get_length() if side.is_static else None for side in given.partial_shape]
        return Session(run, shape, given.element_type == openvino.Type.u8)

    def inspect(self, file: Path) -> Counter[str]:
        """See :meth:`Runtime.inspect`; without constants."""
        import openvino

        kinds = [operator.get_type_name() for operator in openvino.Core().read_model(file).get_ops()]
        return Counter(kind for kind in kinds if kind != 'Constant')
