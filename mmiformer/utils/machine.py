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


def describe_machine(modules: Sequence[str] = ()) -> dict[str, Any]:
    """Processor, cores, load of the last minute, system, and versions.

    Args:
        modules: Modules to give the versions of, in addition to Python and torch.
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
    return dict(
        processor=processor,
        architecture=platform.machine(),
        cores=os.cpu_count(),
        load=os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
        capability=torch.backends.cpu.get_cpu_capability(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=versions,
    )
