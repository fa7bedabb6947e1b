"""An mmcv without compiled operators, in processes of their own: the tests' own mmcv may have some."""

import subprocess
import sys

import pytest
import torch

from mmiformer.ops.extension import TorchExtension
from mmiformer.utils.errors import UserError

mmdet = pytest.importorskip('mmdet')


def run(code: str, folder, broken: str | None = None) -> str:
    """Runs code with an ``mmcv._ext`` that cannot be imported, absent or broken."""
    error = f'ImportError({broken!r})' if broken else "ModuleNotFoundError(name='mmcv._ext')"
    (folder / '_ext.py').write_text(f'raise {error}\n')
    start = f'import mmcv; mmcv.__path__.insert(0, {str(folder)!r})\n'
    result = subprocess.run([sys.executable, '-c', start + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


POOL = """
import torch
from mmdet.models.layers.bbox_nms import multiclass_nms
from mmdet.structures.mask import BitmapMasks
import numpy as np
boxes = torch.tensor([[0., 0, 8, 8], [0, 0, 8, 7], [20, 20, 30, 30]])
scores = torch.tensor([[.9, .1], [.8, .1], [.7, .1]])
print('kept', len(multiclass_nms(boxes, scores, .5, dict(type='nms', iou_threshold=.5), 10)[0]))
masks = BitmapMasks(np.ones((1, 40, 40), np.uint8), 40, 40)
print('mask', masks.crop_and_resize(boxes[2:], (4, 4), torch.tensor([0])).masks.sum())
"""


# The original line's mmdet.models cannot be imported before, OneDL's can, with functions that raise; so that
# it can here, operators of a torchvision that may not fit the torch are declared.
LATE = """
import torch
library = torch.library.Library('torchvision', 'FRAGMENT')
if not hasattr(torch.ops.torchvision, 'nms'):
    for name in ('nms', 'qnms'):
        library.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
try:
    import mmdet.apis, mmdet.models
except ImportError:
    pass
import mmiformer
"""


@pytest.mark.parametrize('imports', ['import mmiformer', LATE], ids=['mmiformer first', 'mmdet first'])
def test_mmdet_runs_in_either_order_of_imports(tmp_path, imports):
    out = run(imports + POOL, tmp_path)
    assert 'kept 2' in out and 'mask 16' in out and 'does not load' not in out


def test_a_broken_extension_counts_as_missing_and_the_warning_says_why(tmp_path):
    out = run(f'import mmiformer\n{POOL}', tmp_path, '_ext.so: undefined symbol: _ZN2at')
    assert 'mmcv._ext does not load (_ext.so: undefined symbol: _ZN2at)' in out
    assert 'kept 2' in out and 'mask 16' in out


def test_mmcv_reports_no_compiler(tmp_path):
    code = 'import mmiformer; from mmcv.ops import get_compiler_version; print(get_compiler_version())'
    assert 'the operators are those of mmiformer.ops' in run(code, tmp_path)


def test_other_operators_raise_when_they_are_called():
    extension = TorchExtension('mmcv was installed without them')
    assert hasattr(extension, 'carafe_forward')  # mmcv asks for it when it is imported.
    with pytest.raises(UserError, match='carafe_forward: .* without them.* docs/install.md'):
        extension.carafe_forward(torch.zeros(1))


def test_a_compiled_extension_is_left_alone(compiled):
    module = sys.modules.get('mmcv._ext')
    if module is None or isinstance(module, TorchExtension):
        pytest.skip('the installed mmcv has no compiled operators')
    assert module.__file__.endswith('.so')
