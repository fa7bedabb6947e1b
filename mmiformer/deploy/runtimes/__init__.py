"""The runtimes that networks are exported to, each with its file format."""

from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session
from mmiformer.deploy.runtimes.coreml import CoreML
from mmiformer.deploy.runtimes.executorch import ExecuTorch
from mmiformer.deploy.runtimes.ncnn import NCNN
from mmiformer.deploy.runtimes.onnx import OnnxRuntime
from mmiformer.deploy.runtimes.openvino import OpenVino

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (OnnxRuntime(), OpenVino(), ExecuTorch(), CoreML(), NCNN())
}

__all__ = ['RUNTIMES', 'ExportOptions', 'Runtime', 'Session']
