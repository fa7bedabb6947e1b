"""Runs a script after ``import mmiformer``: ``python -m mmiformer SCRIPT [ARGUMENT ...]``.

For scripts that import mmdet's models before they read a config, such as mmdet's ``tools/test.py``. Without
mmcv's compiled operators, or with a torchvision for another torch, those imports fail unless mmiformer is
imported first. The script reads weight files with our reader, since the original line's mmengine cannot read
its own checkpoints with torch 2.6 or later.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader

from mmiformer.apis.configs import allow_own_bases
from mmiformer.checkpoints import read, translate


def load_checkpoint(filename: str | os.PathLike[str], map_location: Any = None, **_: Any) -> dict[str, Any]:
    """Reads a file for mmengine's runner: weights, on the CPU, and the state of training, without configs."""
    checkpoint = read(filename)
    meta = checkpoint.training.get('meta')
    kept = {k: v for k, v in meta.items() if k not in ('cfg', 'config')} if isinstance(meta, dict) else {}
    weights = translate(checkpoint.state_dict).state_dict
    return {
        **checkpoint.training,
        'state_dict': dict(weights),
        'meta': {**kept, 'dataset_meta': checkpoint.dataset_meta},
    }


if __name__ == '__main__':
    if not sys.argv[1:] or not Path(sys.argv[1]).is_file():
        sys.exit('usage: python -m mmiformer SCRIPT [ARGUMENT ...], where SCRIPT is a Python file')
    allow_own_bases()
    CheckpointLoader.register_scheme(prefixes='', loader=load_checkpoint, force=True)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)  # As Python does for a script.
    runpy.run_path(sys.argv[0], run_name='__main__')
