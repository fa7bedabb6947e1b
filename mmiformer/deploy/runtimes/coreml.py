"""Core ML: Apple's runtime, on the CPU, the GPU and the Neural Engine of iPhones."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, drop_aliases, trace
from mmiformer.deploy.wrappers import FromPixels


class CoreML(Runtime):
    """Writes ML packages for iOS 18 and above, whose attention is one operator.

    A wrapper that takes pixels (:class:`~mmiformer.deploy.wrappers.FromPixels`) gets an image input, to which
    apps pass camera frames. Files have one size: coremltools cannot pad by an amount that is known at run
    time only, which windows need. int8 quantises the weights (per channel, symmetric) while activations stay
    fp16: quantising them needs a Mac to run the network.
    """

    name = 'coreml'
    suffix = '.mlpackage'
    modules = ('coremltools',)
    precisions = ('fp32', 'fp16', 'int8')
    runs_here = False  # Not tried on a Mac.
    calibrated = False
    fused_attention = True
    planar_pixels = True

    def write(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """See :meth:`Runtime.write`."""
        import coremltools as ct

        exported = trace(wrapper, options).run_decompositions({})
        drop_aliases(exported.graph)
        _drop_default_scale(exported.graph)
        image = ct.ImageType if isinstance(wrapper, FromPixels) else ct.TensorType
        precision = ct.precision.FLOAT32 if options.precision == 'fp32' else ct.precision.FLOAT16
        model = ct.convert(
            exported,
            convert_to='mlprogram',
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=precision,
            inputs=[image(name='image', shape=tuple(options.example.shape))],
            outputs=[ct.TensorType(name=name) for name in wrapper.outputs],
            skip_model_load=True,
        )
        if options.precision == 'int8':
            from coremltools.optimize import coreml as optimize

            settings = optimize.OpLinearQuantizerConfig(mode='linear_symmetric')
            model = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(settings))
        model.save(str(file))

    def inspect(self, file: Path) -> Counter[str]:
        """See :meth:`Runtime.inspect`; without constants."""
        import coremltools as ct

        program = ct.models.MLModel(str(file), skip_model_load=True).get_spec().mlProgram
        return Counter(
            operation.type
            for function in program.functions.values()
            for operation in function.block_specializations[function.opset].operations
            if not operation.type.startswith('const')  # const and constexpr_...
        )


def _drop_default_scale(graph: torch.fx.Graph) -> None:
    # Core ML's attention has torch's default scale only; coremltools converts any that states one to matmuls.
    attention = torch.ops.aten.scaled_dot_product_attention.default
    for node in graph.find_nodes(op='call_function', target=attention):
        default = node.args[0].meta['val'].shape[-1] ** -0.5
        if math.isclose(node.kwargs.get('scale') or default, default, rel_tol=1e-6):
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != 'scale'}
