"""The runtimes that networks are exported to, each with its file format."""

from pathlib import Path

from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session
from mmiformer.deploy.runtimes.coreml import CoreML
from mmiformer.deploy.runtimes.executorch import ExecuTorch
from mmiformer.deploy.runtimes.litert import LiteRT
from mmiformer.deploy.runtimes.ncnn import NCNN
from mmiformer.deploy.runtimes.onnx import OnnxRuntime
from mmiformer.deploy.runtimes.openvino import OpenVino
from mmiformer.utils.errors import UserError

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (OnnxRuntime(), OpenVino(), ExecuTorch(), LiteRT(), CoreML(), NCNN())
}


def runtime_of(file: str | Path) -> Runtime | None:
    """The runtime of an exported file, by its suffix; None of a checkpoint."""
    return next((r for r in RUNTIMES.values() if r.suffix == Path(file).suffix), None)


def open_exported(file: str | Path) -> tuple[Runtime, Session]:
    """Opens an exported file.

    Raises:
        UserError: If it has another suffix, is missing or broken, or its runtime is not installed or does
            not run here.
    """
    runtime = runtime_of(file)
    if not runtime:
        suffixes = ', '.join(runtime.suffix for runtime in RUNTIMES.values())
        raise UserError(file, 'not the name of an exported file', f'they end in {suffixes}')
    for part in runtime.files(Path(file)):
        if not part.exists():
            raise UserError(part, 'no such file', 'name a file that tools/export.py wrote')
    if not runtime.runs_here:
        raise UserError(file, f'{runtime.name} does not run on this machine', 'use the onnx file')
    runtime.require()
    try:
        return runtime, runtime.open(Path(file))
    except Exception as error:  # Each has its own.
        raise UserError(file, f'not a file that {runtime.name} can read', 'export it again') from error


__all__ = ['RUNTIMES', 'ExportOptions', 'Runtime', 'Session', 'open_exported', 'runtime_of']
