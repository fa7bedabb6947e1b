"""Description of the machine that produced results."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# Packages, besides torch, that a model's results depend on.
MODULES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmiformer', 'timm')


def describe_machine(modules: Sequence[str] = (), device: str = 'cpu') -> dict[str, Any]:
    """Device, load of the last minute, system, and versions.

    Args:
        modules: Modules to give the versions of, in addition to Python and torch.
        device: The device that the results are from: ``'cpu'``, or one of torch's GPUs. Defaults to
            ``'cpu'``.
    """
    processor = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file() and (found := re.search(r'model name\s*:\s*(.+)', cpuinfo.read_text())):
        processor = found[1].strip()
    owners = importlib.metadata.packages_distributions()
    versions = {
        name: importlib.metadata.version(owners[name][0])
        for name in dict.fromkeys(('torch', *(m.partition('.')[0] for m in modules)))
        if name in owners
    }
    cores = os.cpu_count()
    return dict(
        device=f'{processor}, {cores} cores' if device == 'cpu' else torch.cuda.get_device_name(device),
        processor=processor,
        architecture=platform.machine(),
        cores=cores,
        load=os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
        capability=torch.backends.cpu.get_cpu_capability(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=versions,
    )


def summary(machine: dict[str, Any]) -> str:
    """Device and versions of a :func:`describe_machine` in one line."""
    return ', '.join(
        [machine['device'], *(f'{name} {version}' for name, version in machine['versions'].items())]
    )
