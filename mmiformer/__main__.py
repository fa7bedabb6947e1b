"""Runs a script after ``import mmiformer``: ``python -m mmiformer SCRIPT [ARGUMENT ...]``.

For scripts that import mmdet's models before they read a config, as mmdet's own ``tools/test.py`` does: where
mmcv has no compiled operators, or torchvision does not fit torch, those imports fail without mmiformer.
"""

import runpy
import sys
from pathlib import Path

from mmiformer.apis.configs import allow_own_bases

if __name__ == '__main__':
    if not sys.argv[1:] or not Path(sys.argv[1]).is_file():
        sys.exit('usage: python -m mmiformer SCRIPT [ARGUMENT ...], where SCRIPT is a Python file')
    allow_own_bases()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)  # As Python does for a script of its own.
    runpy.run_path(sys.argv[0], run_name='__main__')
