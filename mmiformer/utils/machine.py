"""What figures were measured on."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# What results of a model depend on beside Python and torch.
MODULES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmiformer', 'timm')


def describe_machine(modules: Sequence[str] = ()) -> dict[str, Any]:
    """What figures depend on: processor, cores, load of the last minute, system, and versions.

    Args:
        modules: Those whose versions are wanted beside Python's and torch's.
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
