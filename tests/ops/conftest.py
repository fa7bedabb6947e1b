import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope='session')
def compiled(root, tmp_path_factory) -> ModuleType:
    """mmcv's compiled extension: the installed one, or that of a wheel in ``../shared/wheels``.

    It is loaded beside the installed mmcv, whose operators stay what they are.
    """
    spec = importlib.util.find_spec('mmcv')
    files = list(Path(spec.origin).parent.glob('_ext.*')) if spec else []
    if not files:
        tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
        wheels = sorted((root.parent / 'shared' / 'wheels').glob(f'*mmcv-*-{tag}-*.whl'))
        if not wheels:
            pytest.skip('no mmcv with compiled operators to compare with')
        with zipfile.ZipFile(wheels[-1]) as wheel:
            name = next(n for n in wheel.namelist() if n.startswith('mmcv/_ext.'))
            files = [Path(wheel.extract(name, tmp_path_factory.mktemp('compiled')))]
    spec = importlib.util.spec_from_file_location('compiled._ext', files[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
