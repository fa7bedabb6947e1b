"""What the tests of one session make once for all of its processes, and for all of its runs."""

import fcntl
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yapf.yapflib.yapf_api

Draw = Callable[..., Path]


def drawn_once(drawn: Path, workplace: Path, make: Draw) -> Draw:
    """A ``mmiformer.datasets.toy.folder.make`` that draws the miniature data once for all processes.

    To draw it takes half a minute for the three tasks. Each process has a copy, since tests break its files.

    Args:
        drawn: Folder that all processes of the session share; it need not exist.
        workplace: Where runs are started. Data elsewhere is drawn as ever.
        make: What draws.
    """

    @functools.wraps(make)
    def made(root: Path | str, write: Callable, generator: int | str, *numbers: int) -> Path:
        root = Path(root)
        if workplace in root.absolute().parents and not root.exists():
            drawn.mkdir(exist_ok=True)
            first = drawn / '-'.join(map(str, (generator, *numbers)))
            with first.with_suffix('.lock').open('w') as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # Until it is closed.
                make(first, write, generator, *numbers)
            root.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(first, root)
        return make(root, write, generator, *numbers)  # Finds it.

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
