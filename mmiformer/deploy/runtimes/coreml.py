"""Core ML: Apple's runtime, on the CPU, the GPU and the Neural Engine of iPhones."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmiformer.deploy.runtimes.base import ExportOptions, Graph, Runtime, Session, drop_conditions, trace
from mmiformer.deploy.runtimes.converting import PlanarPixels, silence
from mmiformer.utils.errors import UserError


class CoreML(Runtime):
    """Writes ML packages for iOS 18 and above, whose attention is one operator.

    A program that takes pixels (:class:`~mmiformer.deploy.wrappers.FromPixels`) becomes one with an image
    input, which apps hand camera frames to. Files have one size: coremltools cannot pad by an amount
    that is known at run time only, as windows need it.
    """

    name = 'coreml'
    suffix = '.mlpackage'
    modules = ('coremltools',)
    precisions = ('fp32', 'fp16', 'int8')
    runs_here = False  # Not tried on a Mac.
    calibrated = False  # It quantises weights alone.
    fused_attention = True
    planar_pixels = True

    def write(self, program: Any, order: ExportOptions, file: Path) -> None:
        """Writes a program; int8 means weights (per channel, symmetric), while activations stay fp16.

        Quantising activations needs the network to be run by Core ML, which a Mac only can do.
        """
        import coremltools as ct

        exported = trace(program, order).run_decompositions({})
        drop_conditions(exported.graph)
        _drop_default_scale(exported.graph)
        image = ct.ImageType if isinstance(program, PlanarPixels) else ct.TensorType
        precision = ct.precision.FLOAT32 if order.precision == 'fp32' else ct.precision.FLOAT16
        model = ct.convert(
            exported,
            convert_to='mlprogram',
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=precision,
            inputs=[image(name='image', shape=tuple(order.example.shape))],
            outputs=[ct.TensorType(name=name) for name in program.outputs],
            skip_model_load=True,
        )
        if order.precision == 'int8':
            from coremltools.optimize import coreml as optimize

            settings = optimize.OpLinearQuantizerConfig(mode='linear_symmetric')
            model = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(settings))
        model.save(str(file))

    def open(self, file: Path, threads: int | None = None) -> Session:
        """Says that the file is not run by this package."""
        raise UserError(
            file,
            'Core ML runs on Macs and iPhones only, where Xcode opens it',
            'its operators and shapes can be checked here, its outputs cannot',
        )

    def inspect(self, file: Path) -> Graph:
        """Counts operators, constants left out, and looks for the largest rank among their outputs."""
        with silence():
            import coremltools as ct

            program = ct.models.MLModel(str(file), skip_model_load=True).get_spec().mlProgram
        operators: Counter[str] = Counter()
        rank = 0
        for function in program.functions.values():
            for operation in function.block_specializations[function.opset].operations:
                if operation.type == 'const' or operation.type.startswith('constexpr'):
                    continue
                operators[operation.type] += 1
                rank = max([rank, *(output.type.tensorType.rank for output in operation.outputs)])
        return Graph(operators, rank)


def _drop_default_scale(graph: torch.fx.Graph) -> None:
    """Removes the scale of attentions where it is torch's default.

    Core ML's own operator has no scale but that; coremltools spells out every attention that states one.
    """
    for node in graph.nodes:
        if node.target == torch.ops.aten.scaled_dot_product_attention.default:
            default = node.args[0].meta['val'].shape[-1] ** -0.5
            if np.isclose(node.kwargs.get('scale') or default, default, rtol=1e-6):
                node.kwargs = {key: value for key, value in node.kwargs.items() if key != 'scale'}
