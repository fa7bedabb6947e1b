"""Filling the published tables with what one measures: which rows, which files, which commands."""

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmiformer.apis.configs import config_file
from mmiformer.apis.hub import get_config
from mmiformer.datasets.checks import datasets_of, paths_of
from mmiformer.engine.resuming import last_checkpoint
from mmiformer.tasks import TASKS
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write, sha256_of
from mmiformer.utils.machine import MODULES, describe_machine
from mmiformer.zoo.comparing import Row
from mmiformer.zoo.entries import Entry, entries
from mmiformer.zoo.launching import Launch, OnProgress, run_tool
from mmiformer.zoo.published import DOWNSTREAM, METRICS

# Whose published results are by other recipes than the configs here.
_OTHER_RECIPES = 'published of runs by other recipes; trained here by that of iFormer.'
_NO_CONFIG = 'in no library here: the published row alone.'
_RERUNS = 'the authors say that some released files are re-runs and may differ slightly from the table.'
_SUFFIXES = ('.pth', '.pt', '.safetensors')
# Settings that change nothing in what is measured.
_HARMLESS = (
    *(f'test_dataloader.{key}=' for key in ('batch_size', 'num_workers', 'persistent_workers')),
    *('default_hooks.logger', 'env_cfg', 'log_level='),
)


def rows_of(
    tasks: Sequence[str], patterns: Sequence[str], checkpoints: Path | None
) -> list[tuple[Row, Entry | None]]:
    """The rows of the table: all that is published, and what else is asked for or has a checkpoint.

    Args:
        tasks: Names of tasks.
        patterns: Names of configs, with ``*`` for any part; empty for all.
        checkpoints: Folder of the weight files; None where all are trained.

    Returns:
        Each with its entry, None for a network that no library here has.

    Raises:
        UserError: If a pattern fits nothing.
    """
    names = [entry.name for entry in entries() if entry.task in tasks]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(
                f"--rows '{pattern}'",
                f'fits no config of the tasks {", ".join(tasks)}',
                "see configs/, e.g. 'maskrcnn_iformer_*'",
            )
    chosen: list[tuple[Row, Entry | None]] = []
    for task in tasks:
        own = [entry for entry in entries() if entry.task == task]
        wanted = [entry for entry in own if _is_wanted(entry, patterns, checkpoints)]
        rows: list[tuple[Row, Entry | None]] = [(_row_of(entry), entry) for entry in wanted]
        if not patterns:
            rows += [(row, None) for row in _rows_without_config(task, own)]
        chosen += rows if task == 'cls' else sorted(rows, key=lambda pair: _place(pair[0]))
    return chosen


def _is_wanted(entry: Entry, patterns: Sequence[str], checkpoints: Path | None) -> bool:
    if patterns:
        return any(fnmatch.fnmatch(entry.name, pattern) for pattern in patterns)
    has_weights = checkpoints is not None and find_checkpoint(entry, checkpoints) is not None
    return bool(entry.published) or has_weights


def _row_of(entry: Entry) -> Row:
    remark = ', distilled' if entry.distilled else ''
    if entry.framework in ('UPerNet', 'RetinaNet'):  # Those that the paper does not have.
        remark = f' ({entry.framework})'
    return Row(entry.name, entry.title + remark, dict(entry.published), 'pending')


def _rows_without_config(task: str, own: Sequence[Entry]) -> Iterator[Row]:
    titles = {entry.title for entry in own}
    for row in DOWNSTREAM:
        figures = {m: v for m, v in row.figures().items() if v is not None and METRICS[m].task == task}
        if figures and row.title not in titles:
            yield Row(row.title, row.title, figures, 'published', remarks=[_NO_CONFIG])


def _place(row: Row) -> int:
    """As in the paper's table; what is not in it comes last."""
    titles = [table.title for table in DOWNSTREAM]
    return titles.index(row.title) if row.title in titles and row.published else len(titles)


def find_checkpoint(entry: Entry, folder: Path) -> Path | None:
    """The weight file of an entry: the released one by its name, else one of our names.

    Args:
        entry: Of the zoo.
        folder: Where to look: for ``iFormer_m_epoch_12.pth``, ``CONFIG.pth``, ``CONFIG.safetensors``, or the
            work dir ``CONFIG/`` of a training run.
    """
    names = [entry.weights.file] if entry.weights else []
    names += [entry.name + suffix for suffix in _SUFFIXES]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    return last_checkpoint(folder / entry.name)


def missing_reason(entry: Entry, folder: Path) -> str:
    """A sentence for a row without a checkpoint."""
    if entry.weights:
        return f'{folder / entry.weights.file}: not found; download it from {entry.weights.url}.'
    return (
        f'{folder / entry.name}.pth: not found, and no weights were released; train it (--train), or put '
        'your checkpoint or its work dir there.'
    )


@dataclass(frozen=True)
class Job:
    """The work on one row, as runs of the tools.

    Attributes:
        entry: Of the zoo.
        out: Folder of all rows.
        launch: How processes are started.
        overrides: Settings of the config to override, as ``key=value``.
        limit: Number of images to evaluate on; None for all.
    """

    entry: Entry
    out: Path
    launch: Launch = Launch()
    overrides: tuple[str, ...] = ()
    limit: int | None = None

    @property
    def training_folder(self) -> Path:
        """Work dir of the training run."""
        return self.out / 'train' / self.entry.name

    @property
    def folder(self) -> Path:
        """Of the evaluation."""
        return self.out / 'rows' / self.entry.name

    def training_command(self) -> list[str]:
        """What trains; the learning rate follows the batch that the processes make up."""
        work_dir = ('--work-dir', str(self.training_folder))
        return self._command('train', *work_dir, '--resume', '--auto-scale-lr')

    def evaluation_command(self, checkpoint: Path) -> list[str]:
        """What evaluates a weight file."""
        folders = ('--work-dir', str(self.folder), '--out', str(self.folder / 'measured.json'))
        limit = () if self.limit is None else ('--limit', str(self.limit))
        return self._command('test', str(checkpoint), *folders, *limit)

    def _command(self, tool: str, *arguments: str) -> list[str]:
        overrides = ('--cfg-options', *self.overrides) if self.overrides else ()
        return self.launch.command(tool, str(config_file(self.entry.name)), *arguments, *overrides)

    def _settings(self, cfg: Config) -> dict[str, Any]:
        text = repr(cfg.to_dict())
        return dict(config=hashlib.sha256(text.encode()).hexdigest(), overrides=list(self.overrides))

    def train(self, progress: OnProgress) -> str | None:
        """Trains, or goes on where training was stopped.

        Args:
            progress: Is told of iterations done and of all.

        Returns:
            None if it succeeded, else why not, in a sentence.
        """
        folder, key = self.training_folder, self._settings(get_config(self.entry.name))
        folder.mkdir(parents=True, exist_ok=True)
        if last_checkpoint(folder) and _read(folder / 'key.json') != key:
            return f'{folder}: was trained with other settings; remove it, or choose another --out.'
        atomic_write(folder / 'key.json', json.dumps(key))
        reason = run_tool(self.training_command(), folder / 'log.txt', progress)
        if reason is None and last_checkpoint(folder) is None:
            reason = f'{folder}: training left no checkpoint there.'
        return reason

    def evaluate(self, row: Row, checkpoint: Path, progress: OnProgress) -> None:
        """Fills the row with what is measured, or with why it is not.

        What was measured before from the same file, with the same config, data, settings and versions, is
        taken as it is.

        Args:
            row: The table's.
            checkpoint: The weight file.
            progress: Is told of batches done and of all.
        """
        cfg, digest = get_config(self.entry.name), sha256_of(checkpoint)
        row.details.update(file=checkpoint.name, sha256=digest)
        row.released = self.entry.weights is not None and checkpoint.name == self.entry.weights.file
        known = self.entry.weights.sha256 if self.entry.weights and row.released else None
        if known and digest != known:
            row.remarks.append(
                f'{checkpoint.name}: its SHA-256 is {digest[:8]}..., that of the released file, as a '
                f'third party reports, {known[:8]}...; fetch it again if it is meant to be that.'
            )
        versions = describe_machine(MODULES)['versions']
        state = dict(limit=self.limit, data=_state_of(cfg), versions=versions)
        key = dict(self._settings(cfg), weights=digest, **state)
        measured = self.folder / 'measured.json'
        if _read(self.folder / 'key.json') != key or _read(measured) is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            measured.unlink(missing_ok=True)
            atomic_write(self.folder / 'key.json', json.dumps(key))
            reason = run_tool(self.evaluation_command(checkpoint), self.folder / 'log.txt', progress)
            if reason:
                row.status = 'failed'
                row.remarks.append(reason)
                return
        self._read_result(row, _read(measured) or {}, _unfinished(checkpoint, cfg))

    def _read_result(self, row: Row, result: dict[str, Any], unfinished: str | None) -> None:
        for name, metric in METRICS.items():
            if metric.task == self.entry.task and metric.key in result.get('metrics', {}):
                row.measured[name] = round(float(result['metrics'][metric.key]) * metric.scale, 4)
        if not row.measured:
            row.status = 'failed'
            row.remarks.append(
                'its evaluation gave no figures, as mmdet does where nothing at all is detected; see '
                f'{self.folder / "log.txt"}.'
            )
            return
        row.status = 'measured'
        images, expected = result['images'], TASKS[self.entry.task].images[1]
        row.details.update(images=images, seconds=round(result['seconds'], 1), machine=result['machine'])
        changed = [option for option in self.overrides if not option.startswith(_HARMLESS)]
        obstacles = [
            f'measured on {images} of {expected:,} images' if images != expected else None,
            f'settings overridden ({", ".join(changed)})' if changed else None,
            unfinished,
        ]
        row.comparable = not any(obstacles)
        row.remarks += [f'{obstacle}: not to be compared.' for obstacle in obstacles if obstacle]
        if not row.published:
            row.remarks.append('nothing is published of it.')
        elif self.entry.framework and self.entry.peer:
            row.remarks.append(_OTHER_RECIPES)
        elif self.entry.framework and row.released:
            row.remarks.append(_RERUNS)
        far = [METRICS[metric].title for metric in row.metrics() if row.within(metric) is False]
        if far:
            row.remarks.append(f'further away than the tolerance in {", ".join(far)}.')


def _read(file: Path) -> Any:
    """Content of a JSON file; None where there is none, or where a run was stopped while it wrote."""
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def _state_of(cfg: Config) -> list[list[Any]]:
    """Size and time of the files and folders that are evaluated on, which change as a file is added."""
    paths = [Path(path) for dataset in datasets_of(cfg, 'test') for path in paths_of(dataset)]
    stats = [(path, path.stat()) for path in paths if path.exists()]
    return [[str(path.absolute()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _unfinished(checkpoint: Path, cfg: Config) -> str | None:
    """That a file of mmengine's, by its name, is from before the end of training."""
    for name, last in (('epoch', cfg.train_cfg.get('max_epochs')), ('iter', cfg.train_cfg.get('max_iters'))):
        found = re.fullmatch(rf'{name}_(\d+)\.pth', checkpoint.name)
        if found and last and int(found[1]) < last:
            return f'trained to {name} {found[1]} of {last}'
    return None
