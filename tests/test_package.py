import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

import mmiformer


def test_torchvision_imports_with_this_torch():
    if find_spec('torchvision') is None:
        pytest.skip('torchvision is not installed')
    import torchvision.transforms as transforms

    assert transforms.Resize(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)


def test_import_without_mmengine_and_mmcv_warns(tmp_path):
    code = (
        'import importlib.util as u, warnings; find = u.find_spec\n'
        "u.find_spec = lambda n, *a: None if n in ('mmengine', 'mmcv') else find(n, *a)\n"
        'with warnings.catch_warnings(record=True) as caught:\n'
        "    warnings.simplefilter('always'); import mmiformer\n"
        'print(mmiformer.__version__, caught[0].message)'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.startswith(mmiformer.__version__) and "pip install 'mmiformer[onedl]'" in out


def test_importing_imports_no_toolbox():
    """Users of classification need not install mmdet."""
    code = "import sys, mmiformer; print([m for m in ('mmdet', 'mmseg', 'mmpretrain') if m in sys.modules])"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith('[]')


SNAPSHOT = """
import importlib, logging, os, sys

ROOTS = ('logging', 'matplotlib', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'torch', 'unittest')

def snapshot():
    found = {('os', 'environ', key): value for key, value in os.environ.items()}
    for module in [m for name, m in list(sys.modules.items()) if name.split('.')[0] in ROOTS]:
        for name, value in list(vars(module).items()):
            owners = [(name, value)]
            if isinstance(value, type) and value.__module__ == module.__name__:
                owners += [(f'{name}.{key}', inner) for key, inner in vars(value).items()]
            for key, inner in owners:
                found[module.__name__, key] = inner
                if type(inner) is dict:  # As of loaders by scheme.
                    found.update({(module.__name__, key, str(k)): v for k, v in inner.items()})
    return found

import mmcv, mmengine.runner, torch
for name in ('matplotlib.pyplot', 'mmpretrain', 'mmseg', 'mmdet', 'mmcv.ops'):
    try:
        importlib.import_module(name)
    except (ImportError, AssertionError, RuntimeError):
        pass  # Without compiled operators.
before = snapshot()
import mmiformer
after = snapshot()
caches = ('_cache', '__warningregistry__', '__annotations_cache__', '__abstractmethods__', '_abc_impl')
changed = [k for k, v in before.items() if after.get(k) is not v and not any(c in k[-1] for c in caches)]
print([k for k in changed if k[:2] != ('os', 'environ') or after.get(k) != before[k]])
"""


def test_importing_replaces_nothing_of_other_packages():
    out = subprocess.run([sys.executable, '-c', SNAPSHOT], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == '[]'
