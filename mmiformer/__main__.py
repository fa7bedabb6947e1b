"""Runs a script after ``import mmiformer``: ``python -m mmiformer SCRIPT [ARGUMENT ...]``.

For scripts that import mmdet's models before they read a config, as mmdet's own ``tools/test.py`` does: where
mmcv has no compiled operators, or torchvision does not fit torch, those imports fail without mmiformer. The
script's mmengine reads weight files by our reader: that of the original line cannot read its own checkpoints
with torch 2.6 or later.
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
    """What mmengine's runner takes from a file: weights, and what a run resumes from but for config texts.

    Args:
        filename: Path of the file.
        map_location: Left aside: weights are read to the CPU.
    """
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
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)  # As Python does for a script of its own.
    runpy.run_path(sys.argv[0], run_name='__main__')
