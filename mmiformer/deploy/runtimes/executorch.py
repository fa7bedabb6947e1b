"""ExecuTorch: PyTorch's own runtime for phones, on the CPU through XNNPACK."""

import json
import re
import tempfile
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from mmiformer.deploy.rewriting import split_depthwise
from mmiformer.deploy.runtimes.base import ExportOptions, Graph, Runtime, Session
from mmiformer.deploy.runtimes.converting import silence


class ExecuTorch(Runtime):
    """Writes ``.pte`` files whose whole graph XNNPACK takes, as one piece.

    7x7 depthwise convolutions, for which XNNPACK has no fast kernel, are split by rows, which is exact.
    """

    name = 'executorch'
    suffix = '.pte'
    modules = ('executorch.exir', 'torchao')
    # No fp16: XNNPACK has no GELU for it, each of which would leave the graph for a scalar loop.
    precisions = ('fp32', 'int8')
    # Methods in use, of all objects of this class: replacing the threads would pull theirs from under them.
    _loaded: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def write(self, program: Any, order: ExportOptions, file: Path) -> None:
        """Writes a program; int8 is static, per channel, with ranges read off ``order.calibration``."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        split_depthwise(program)
        exported = torch.export.export(program, (order.example,))
        if order.precision == 'int8':
            quantized = _quantized(exported.module(), order.calibration)
            exported = torch.export.export(quantized, (order.example,))
        # XNNPACK takes slices, but no split, and would leave the graph for each.
        exported = exported.run_decompositions({torch.ops.aten.split.Tensor: _split_as_slices})
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        file.write_bytes(lowered.to_executorch().buffer)

    def open(self, file: Path, threads: int | None = None) -> Session:
        """Loads a file.

        Raises:
            RuntimeError: If ``threads`` differs from that of a session which is still in use: the number is
                one for the whole process, and a loaded method keeps the threads that it found.
        """
        with silence():  # It lists what it cannot find out about the CPU.
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime as ExecuTorchRuntime

            if threads is not None and portable_lib._threadpool_get_thread_count() != threads:
                if len(self._loaded):
                    raise RuntimeError(f'{file}: other files are open with another number of threads')
                portable_lib._unsafe_reset_threadpool(threads)
            method = ExecuTorchRuntime.get().load_program(file).load_method('forward')
        assert method is not None
        self._loaded.add(method)

        def run(image: np.ndarray) -> list[np.ndarray]:
            # It would read other strides than these as if they were these.
            given = torch.from_numpy(np.ascontiguousarray(image))
            # The next run overwrites the outputs.
            return [output.numpy().copy() for output in method.execute([given])]

        return run

    def inspect(self, file: Path) -> Graph:
        """Counts the pieces that XNNPACK takes, the operators in them, and those outside of them."""
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall, KernelCall, Tensor

        with silence():
            program = deserialize_pte_binary(file.read_bytes()).program
        operators: Counter[str] = Counter()
        rank = 0
        for plan in program.execution_plan:
            values = [value.val for value in plan.values]
            rank = max([rank, *(len(value.sizes) for value in values if isinstance(value, Tensor))])
            for instruction in (i.instr_args for chain in plan.chains for i in chain.instructions):
                if isinstance(instruction, KernelCall):
                    operator = plan.operators[instruction.op_index]
                    operators[f'{operator.name}.{operator.overload}'.rstrip('.')] += 1
                elif isinstance(instruction, DelegateCall):
                    delegate = plan.delegates[instruction.delegate_index]
                    operators[delegate.id] += 1
                    graph = _xnnpack_graph(program.backend_delegate_data[delegate.processed.index].data)
                    for node in graph['xnodes']:
                        operators[f'{delegate.id}: {node["xnode_union_type"].removeprefix("XNN")}'] += 1
                    for value in graph['xvalues']:
                        tensor = value['xvalue_union']
                        rank = max(rank, len(tensor.get('tensor_value', tensor).get('dims', ())))
        return Graph(operators, rank)


def _split_as_slices(x: torch.Tensor, size: int, dim: int = 0) -> list[torch.Tensor]:
    length = x.shape[dim]
    return [x.narrow(dim, start, min(size, length - start)) for start in range(0, length, size)]


def _quantized(graph: Any, calibration: Sequence[torch.Tensor]) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(graph, quantizer)
    with torch.no_grad():
        for image in calibration:
            prepared(image)
    quantized = convert_pt2e(prepared)
    _keep_pads_in_float(quantized)
    return quantized


def _keep_pads_in_float(module: Any) -> None:
    """Parts pads from the dequantisation before them: XNNPACK refuses to load what becomes of the two."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in (torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default):
            continue
        source, pads = node.args[:2]
        if not any(pads):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
            continue
        with graph.inserting_before(node):
            batch = graph.call_function(torch.ops.aten.sym_size.int, (source, 0))
            flat = graph.call_function(torch.ops.aten.flatten.using_ints, (source, 0, 1))
        with graph.inserting_after(node):
            restored = graph.call_function(torch.ops.aten.unflatten.int, (node, 0, [batch, -1]))
        node.replace_all_uses_with(restored, delete_user_cb=lambda user, own=restored: user is not own)
        node.replace_input_with(source, flat)
    module.recompile()


def _xnnpack_graph(payload: bytes) -> dict[str, Any]:
    """The graph that is handed to XNNPACK, as ExecuTorch's own schema spells it."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'schema.fbs').write_bytes(_get_schema_bytes())
        start = header.flatbuffer_offset
        (folder / 'graph.bin').write_bytes(payload[start : start + header.flatbuffer_size])
        _flatc_decompile(name, str(folder / 'schema.fbs'), str(folder / 'graph.bin'))
        text = (folder / 'graph.json').read_text()
        # flatc and json spell infinite bounds, ReLU's, differently.
        graph: dict[str, Any] = json.loads(re.sub(r'\binf\b', 'Infinity', text))
    return graph
