"""What the tests of one session make once for all of its processes, and for all of its runs."""

import fcntl
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mmengine.dataset.base_dataset
import yapf.yapflib.yapf_api

from mmiformer.datasets.toy.folder import ToyData

Draw = Callable[..., Path]


def drawn_once(drawn: Path, workplace: Path, make: Draw) -> Draw:
    """A ``ToyData.make`` that draws the miniature data once for all processes.

    Drawing takes half a minute for the three tasks. Each process has a copy, since tests break its files.

    Args:
        drawn: Folder that all processes of the session share; it need not exist.
        workplace: Where runs are started. Data elsewhere is drawn as usual.
        make: What draws.
    """

    @functools.wraps(make)
    def made(toy: ToyData, root: Path, *positional: int, **numbers: int) -> Path:
        if not positional and workplace in root.absolute().parents and not root.exists():
            drawn.mkdir(exist_ok=True)
            first = drawn / '-'.join(map(str, (toy.folder, *numbers.values())))
            with first.with_suffix('.lock').open('w') as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # Until it is closed.
                make(toy, first, **numbers)
            root.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(first, root)
        return make(toy, root, *positional, **numbers)  # Finds it.

    return made


def format_once() -> None:
    """Keeps yapf's answers: mmengine has it format a run's config for the log, and for each file anew."""
    known: dict[str, tuple] = {}
    format_code = yapf.yapflib.yapf_api.FormatCode

    @functools.wraps(format_code)
    def remember(text: str, **options: object) -> tuple:
        key = json.dumps([text, options])
        if key not in known:
            known[key] = format_code(text, **options)
        return known[key]

    yapf.yapflib.yapf_api.FormatCode = remember


def collect_no_garbage() -> None:
    """Spares each data set mmengine's garbage collection: half a second, with all that tests import."""
    mmengine.dataset.base_dataset.gc = SimpleNamespace(collect=lambda: 0)
