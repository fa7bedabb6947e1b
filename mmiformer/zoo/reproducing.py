"""Reproduces the published tables: which rows there are, and how each is trained and evaluated."""

import fnmatch
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmiformer.apis.configs import MIM, config_file
from mmiformer.apis.hub import get_config
from mmiformer.datasets.checks import paths_of
from mmiformer.engine.resuming import last_checkpoint
from mmiformer.tasks import TASKS
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write, sha256_of
from mmiformer.utils.machine import MODULES, describe_machine
from mmiformer.zoo.comparing import Row
from mmiformer.zoo.entries import DOWNSTREAM_FRAMEWORKS, Entry, entries
from mmiformer.zoo.launching import OnProgress, run_tool
from mmiformer.zoo.peers import PEERS
from mmiformer.zoo.published import DOWNSTREAM

_NO_CONFIG = 'in no library here: the published row alone.'
_OTHER_RECIPES = 'published from runs with other recipes; trained here with that of iFormer.'
_RERUNS = 'the authors say that some released files are re-runs and may differ slightly from the table.'
# Overrides that do not change what is measured.
_HARMLESS = re.compile(r'test_dataloader\.(batch_size|\w*workers)=|default_hooks\.logger|env_cfg|log_level=')


def rows_of(
    tasks: Sequence[str], patterns: Sequence[str], checkpoints: Path | None
) -> list[tuple[Row, Entry | None]]:
    """The rows of the table: everything published, and unpublished configs with a checkpoint.

    Args:
        tasks: Names of tasks.
        patterns: Names of configs, with ``*`` for any part, to restrict the table to. Empty for all.
        checkpoints: Folder of the weight files; None to train.

    Returns:
        Rows with their entries, None for a network that has no config.

    Raises:
        UserError: If the patterns match no config.
    """
    chosen = [entry for entry in entries() if entry.task in tasks]
    if patterns:
        chosen = [e for e in chosen if any(fnmatch.fnmatch(e.name, pattern) for pattern in patterns)]
    else:
        chosen = [e for e in chosen if e.published or (checkpoints and find_checkpoint(e, checkpoints))]
    if not chosen:
        problem = f'matches no config of the tasks {", ".join(tasks)}'
        raise UserError(f'--rows {" ".join(patterns)}', problem, "see configs/, e.g. 'maskrcnn_iformer_*'")
    rows: list[tuple[Row, Entry | None]] = [(_row_of(entry), entry) for entry in chosen]
    for task in tasks:
        for line in DOWNSTREAM:
            figures = line.figures(TASKS[task].metrics)
            if figures and line.name is None and not patterns:
                row = Row(line.title, line.title, figures, 'published', remarks=[_NO_CONFIG])
                rows.append((row, None))
    return rows


def _row_of(entry: Entry) -> Row:
    title = entry.title
    if entry.distilled:
        title += ', distilled'
    elif entry.framework and entry.framework not in DOWNSTREAM_FRAMEWORKS:
        title += f' ({entry.framework})'
    return Row(entry.name, title, dict(entry.published))


def find_checkpoint(entry: Entry, folder: Path) -> Path | None:
    """The weight file of an entry.

    Args:
        entry: An entry of the zoo.
        folder: Contains the released file, ``CONFIG.pth``, ``CONFIG.safetensors``, or the work dir
            ``CONFIG/`` of a training run.
    """
    names = [entry.weights.file] if entry.weights else []
    names += [f'{entry.name}.{suffix}' for suffix in ('pth', 'safetensors')]
    files = (folder / name for name in names)
    return next((file for file in files if file.is_file()), last_checkpoint(folder / entry.name))


def missing_reason(entry: Entry, folder: Path) -> str:
    """Explains how to get the weight file that :func:`find_checkpoint` does not find."""
    if entry.weights:
        return f'{folder / entry.weights.file}: not found; download it from {entry.weights.url}.'
    return (
        f'{folder / entry.name}.pth: not found, and no weights were released; put your checkpoint or work '
        'dir there, or train it (--train).'
    )


@dataclass(frozen=True)
class Job:
    """Measures one row with the training and test tools.

    Attributes:
        entry: An entry of the zoo.
        out: Folder of all rows.
        gpus: Number of processes. Defaults to 1.
        overrides: Overrides of the config, as ``key=value``. Defaults to none.
        limit: Number of images to evaluate on. Defaults to all.
    """

    entry: Entry
    out: Path
    gpus: int = 1
    overrides: tuple[str, ...] = ()
    limit: int | None = None

    def _folder(self, kind: str) -> Path:
        return self.out / kind / self.entry.name

    def training_command(self) -> list[str]:
        """The command that trains; the learning rate is scaled to the batch size of all processes."""
        return self._command('train', '--work-dir', self._folder('train'), '--resume', '--auto-scale-lr')

    def evaluation_command(self, checkpoint: Path) -> list[str]:
        """The command that evaluates a weight file."""
        limit = () if self.limit is None else ('--limit', self.limit)
        folder = self._folder('rows')
        out = folder / 'measured.json'
        return self._command('test', checkpoint, '--work-dir', folder, '--out', out, *limit)

    def _command(self, tool: str, *arguments: object) -> list[str]:
        overrides = ('--cfg-options', *self.overrides) if self.overrides else ()
        command = [MIM / 'tools' / f'{tool}.py', config_file(self.entry.name), *arguments, *overrides]
        if self.gpus > 1:
            torchrun = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={self.gpus}']
            command = [*torchrun, *command, '--launcher', 'pytorch']
        return [sys.executable, '-u', *map(str, command)]

    def measure(self, row: Row, checkpoints: Path | None, progress: OnProgress) -> None:
        """Fills a row with measured figures, or with the reason why there are none.

        Resumes an interrupted training, and keeps the result of an earlier evaluation of the same weights
        with the same config, overrides, data and versions.

        Args:
            row: The row of the table.
            checkpoints: Folder of the weight files; None to train.
            progress: Called with the iterations that the tools log.
        """
        cfg = get_config(self.entry.name)
        config = hashlib.sha256(repr(cfg.to_dict()).encode()).hexdigest()
        settings = dict(config=config, overrides=list(self.overrides))
        try:
            if checkpoints is None:
                checkpoint = self._train(settings, progress)
            else:
                checkpoint = find_checkpoint(self.entry, checkpoints)
            if checkpoint is not None:
                self._evaluate(row, checkpoint, dict(settings, data=_data_state(cfg)), progress)
            else:
                row.status = 'missing'
                row.remarks.append(missing_reason(self.entry, checkpoints or self._folder('train')))
        except UserError as error:
            row.status = 'failed'
            row.remarks.append(str(error))

    def _train(self, settings: dict[str, Any], progress: OnProgress) -> Path | None:
        folder, key = self._folder('train'), self._folder('train') / 'key.json'
        if last_checkpoint(folder) and _read(key) != settings:
            raise UserError(folder, 'was trained with other settings', 'choose another --out')
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(key, json.dumps(settings))
        run_tool(self.training_command(), folder / 'log.txt', progress)
        return last_checkpoint(folder)

    def _evaluate(self, row: Row, checkpoint: Path, settings: dict[str, Any], progress: OnProgress) -> None:
        row.details.update(file=checkpoint.name, sha256=sha256_of(checkpoint))
        row.released = self.entry.weights is not None and checkpoint.name == self.entry.weights.file
        versions = describe_machine(MODULES)['versions']
        settings.update(weights=row.details['sha256'], limit=self.limit, versions=versions)
        folder = self._folder('rows')
        key, measured, log = (folder / name for name in ('key.json', 'measured.json', 'log.txt'))
        if _read(key) != settings or not measured.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            measured.unlink(missing_ok=True)
            atomic_write(key, json.dumps(settings))
            run_tool(self.evaluation_command(checkpoint), log, progress)
        result = _read(measured)
        for name, metric in TASKS[self.entry.task].metrics.items():
            if metric.key in result['metrics']:
                row.measured[name] = round(float(result['metrics'][metric.key]) * metric.scale, 4)
        if not row.measured:
            raise UserError(log, 'the evaluation gave no metrics, as mmdet does if nothing is detected')
        row.status = 'measured'
        images, expected = result['images'], TASKS[self.entry.task].images[1]
        row.details.update(images=images, seconds=round(result['seconds']), machine=result['machine'])
        changed = [option for option in self.overrides if not _HARMLESS.match(option)]
        row.comparable = images == expected and not changed
        if images != expected:
            row.remarks.append(f'measured on {images} of {expected:,} images: not comparable.')
        if changed:
            row.remarks.append(f'settings overridden ({", ".join(changed)}): not comparable.')
        if row.published and self.entry.framework:
            if self.entry.network in {peer.name for peer in PEERS}:
                row.remarks.append(_OTHER_RECIPES)
            elif row.released:
                row.remarks.append(_RERUNS)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding='utf-8')) if file.is_file() else None


def _data_state(cfg: Config) -> list[list[Any]]:
    """Modification times of the test data's files and folders, which change when a file is added."""
    paths = [Path(path) for path in paths_of(cfg, 'test')]
    return [[str(path.absolute()), path.stat().st_mtime_ns] for path in paths if path.exists()]
