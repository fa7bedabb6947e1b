import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

import mmiformer


def test_torchvision_imports_beside_this_torch():
    if find_spec('torchvision') is None:
        pytest.skip('torchvision is not installed')
    import torchvision.transforms as transforms

    assert transforms.Resize(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)


def test_import_without_an_mm_stack_says_so(tmp_path):
    code = (
        'import importlib.util as u, warnings; find = u.find_spec\n'
        "u.find_spec = lambda n, *a: None if n in ('mmengine', 'mmcv') else find(n, *a)\n"
        'with warnings.catch_warnings(record=True) as told:\n'
        "    warnings.simplefilter('always'); import mmiformer\n"
        'print(mmiformer.__version__, told[0].message)'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.startswith(mmiformer.__version__) and "pip install 'mmiformer[onedl]'" in out


def test_names_in_the_registry_do_not_need_a_toolbox():
    """Classification users need not have mmdet: importing mmiformer imports no toolbox."""
    code = "import sys, mmiformer; print([m for m in ('mmdet', 'mmseg', 'mmpretrain') if m in sys.modules])"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith('[]')
