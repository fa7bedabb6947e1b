"""What a run was, to reproduce it later."""

import functools
import json
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmiformer
from mmiformer.utils.files import atomic_write
from mmiformer.utils.machine import MODULES, describe_machine


class RecordHook(Hook):
    """Writes ``config.py`` into the work dir, and ``run.json`` into the folder of the log.

    The latter has the command line, versions, commit, machine, seed, the checkpoint that was resumed, and the
    iteration and epoch after which the run starts.

    Args:
        cfg: The config of the run as if it had started from the beginning.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Writes both, after a checkpoint that does not fit has stopped the run."""
        atomic_write(Path(runner.work_dir, 'config.py'), self.cfg.pretty_text)
        record = dict(
            command=shlex.join(sys.argv),
            folder=str(Path.cwd()),
            started=datetime.now(timezone.utc).isoformat(timespec='seconds'),
            commit=_commit(),
            seed=runner.seed,
            processes=runner.world_size,
            resumed=runner.cfg.load_from if runner.cfg.get('resume') else None,
            iteration=runner.iter,
            epoch=runner.epoch,
            **describe_machine(MODULES),
        )
        atomic_write(Path(runner.log_dir, 'run.json'), json.dumps(record, indent=2) + '\n')

    def before_val_epoch(self, runner: Runner) -> None:
        """Forgets the former evaluation: mmengine would log its figures again where this one has none."""
        scalars = runner.message_hub.log_scalars
        for key in [key for key in scalars if key.startswith('val/')]:
            del scalars[key]


def _commit() -> str | None:
    """Commit of mmiformer's checkout, with ``-dirty`` if it has changes; None without a checkout."""
    folder = Path(mmiformer.__file__).parent
    run = functools.partial(subprocess.check_output, cwd=folder, text=True, stderr=subprocess.DEVNULL)
    try:
        run(['git', 'ls-files', '--error-unmatch', '__init__.py'])  # Fails in an environment in a checkout.
        return run(['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
