"""The runtimes that networks are exported to, each with its file format."""

from pathlib import Path

from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session
from mmiformer.deploy.runtimes.coreml import CoreML
from mmiformer.deploy.runtimes.executorch import ExecuTorch
from mmiformer.deploy.runtimes.litert import LiteRT
from mmiformer.deploy.runtimes.ncnn import NCNN
from mmiformer.deploy.runtimes.onnx import OnnxRuntime
from mmiformer.deploy.runtimes.openvino import OpenVino

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (OnnxRuntime(), OpenVino(), ExecuTorch(), LiteRT(), CoreML(), NCNN())
}


def runtime_of(file: str | Path) -> Runtime | None:
    """The runtime of an exported file, by its suffix; None of a checkpoint."""
    return next((r for r in RUNTIMES.values() if r.suffix == Path(file).suffix), None)


__all__ = ['RUNTIMES', 'ExportOptions', 'Runtime', 'Session', 'runtime_of']
