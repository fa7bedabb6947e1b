"""The runtimes that programs are exported to, each with its file format."""

from mmiformer.deploy.runtimes.base import Graph, Order, Runtime, Session
from mmiformer.deploy.runtimes.onnx import OnnxRuntime
from mmiformer.deploy.runtimes.openvino import OpenVino

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (OnnxRuntime(), OpenVino())}

__all__ = ['RUNTIMES', 'Graph', 'Order', 'Runtime', 'Session']
