"""What a run was: enough to tell it apart, and to do it again."""

import json
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_world_size

import mmiformer
from mmiformer.utils.files import atomic_write
from mmiformer.utils.machine import MODULES, describe_machine


def write_record(cfg: Config, folder: Path) -> None:
    """Writes FOLDER/run.json: command line, versions, commit, machine, seed, and what was resumed.

    Args:
        cfg: The config as the runner got it.
        folder: Of the run's log.
    """
    record = dict(
        command=shlex.join(sys.argv),
        folder=str(Path.cwd()),
        started=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        commit=commit(),
        seed=cfg.randomness.seed,
        processes=get_world_size(),
        resumed=cfg.load_from if cfg.get('resume') else None,
        **describe_machine(MODULES),
    )
    atomic_write(folder / 'run.json', json.dumps(record, indent=2) + '\n')


def commit() -> str | None:
    """Commit of mmiformer's checkout, with ``-dirty`` where it was changed; None without a checkout."""
    try:
        _git('ls-files', '--error-unmatch', '__init__.py')  # An environment may lie in a checkout of others.
        return _git('describe', '--always', '--dirty', '--abbrev=40', '--exclude=*')
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    folder = Path(mmiformer.__file__).parent
    done = subprocess.run(['git', *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
