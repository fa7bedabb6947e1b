"""ExecuTorch: PyTorch's own runtime for phones, on the CPU through XNNPACK."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmiformer.deploy.rewriting import split_depthwise
from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session, silence


class ExecuTorch(Runtime):
    """Writes ``.pte`` files whose graph is one XNNPACK delegate.

    7x7 depthwise convolutions, for which XNNPACK has no fast kernel, are split by rows, which is exact. int8
    is static, per channel, with ranges of the calibration images.
    """

    name = 'executorch'
    suffix = '.pte'
    modules = ('executorch.exir', 'torchao')
    # No fp16: XNNPACK has no GELU for it, so that each would run outside of it in a scalar loop.
    precisions = ('fp32', 'int8')

    def write(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """See :meth:`Runtime.write`."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        split_depthwise(wrapper)
        exported = torch.export.export(wrapper, (options.example,))
        if options.precision == 'int8':
            quantized = _quantize(exported.module(), options.calibration)
            exported = torch.export.export(quantized, (options.example,))
        # XNNPACK supports slices, but no split.
        exported = exported.run_decompositions({torch.ops.aten.split.Tensor: _split_as_slices})
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        file.write_bytes(lowered.to_executorch().buffer)
        if options.precision == 'int8':
            self.open(file)  # Only now does XNNPACK refuse some quantised graphs, such as RTMDet's.

    def open(self, file: Path, threads: int | None = None) -> Session:
        """Loads a file; all files that are open at the same time must have the same number of threads."""
        with silence():  # It lists what it cannot find out about the CPU.
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime as ExecuTorchRuntime

            # ExecuTorch has no public functions for this. The pool is one for the process, and loaded files
            # crash if it is replaced.
            if threads is not None and portable_lib._threadpool_get_thread_count() != threads:
                portable_lib._unsafe_reset_threadpool(threads)
            method = ExecuTorchRuntime.get().load_program(file).load_method('forward')

        def run(image: np.ndarray) -> list[np.ndarray]:
            # It ignores strides, and the next run overwrites the outputs.
            outputs = method.execute([torch.from_numpy(np.ascontiguousarray(image))])
            return [output.numpy().copy() for output in outputs]

        given = method.metadata.input_tensor_meta(0)
        return Session(run, given.sizes(), given.dtype() == 0)  # torch's number of uint8.

    def inspect(self, file: Path) -> Counter[str]:
        """See :meth:`Runtime.inspect`; a delegate counts as one operator."""
        # ExecuTorch has no public reader of its files.
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall, KernelCall

        program = deserialize_pte_binary(file.read_bytes()).program
        operators: Counter[str] = Counter()
        for plan in program.execution_plan:
            for call in (i.instr_args for chain in plan.chains for i in chain.instructions):
                if isinstance(call, KernelCall):
                    operators[plan.operators[call.op_index].name] += 1
                elif isinstance(call, DelegateCall):
                    operators[plan.delegates[call.delegate_index].id] += 1
        return operators


def _split_as_slices(x: torch.Tensor, size: int, dim: int = 0) -> list[torch.Tensor]:
    length = x.shape[dim]
    return [x.narrow(dim, start, min(size, length - start)) for start in range(0, length, size)]


def _quantize(graph: Any, calibration: Sequence[torch.Tensor]) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(_in_network)
    prepared = prepare_pt2e(graph, quantizer)
    with torch.no_grad():
        for image in calibration:
            prepared(image)
    quantized = convert_pt2e(prepared)
    _keep_pads_in_float(quantized)
    return quantized


def _in_network(node: torch.fx.Node) -> bool:
    """Whether a node is not of a wrapper's own, which compute boxes: their pixels need more than 8 bits."""
    innermost = [str(kind) for _, kind in node.meta.get('nn_module_stack', {}).values()][-1:]
    return not any(
        kind.startswith(('mmiformer.deploy.rtmdet', 'mmiformer.deploy.wrappers')) for kind in innermost
    )


def _keep_pads_in_float(module: Any) -> None:
    """Separates pads from the dequantisation before them: XNNPACK refuses to load the fusion of the two."""
    graph = module.graph
    for node in graph.find_nodes(op='call_function', target=torch.ops.aten.pad.default):
        source = node.args[0]
        with graph.inserting_before(node):
            batch = graph.call_function(torch.ops.aten.sym_size.int, (source, 0))
            flat = graph.call_function(torch.ops.aten.flatten.using_ints, (source, 0, 1))
        with graph.inserting_after(node):
            restored = graph.call_function(torch.ops.aten.unflatten.int, (node, 0, [batch, -1]))
        node.replace_all_uses_with(restored, delete_user_cb=lambda user, own=restored: user is not own)
        node.replace_input_with(source, flat)
    module.recompile()
