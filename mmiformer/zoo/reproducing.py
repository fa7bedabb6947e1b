"""Filling the published tables with what one measures: which rows, which files, which commands."""

import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmiformer.errors import UserError
from mmiformer.results import DOWNSTREAM, METRICS
from mmiformer.results.comparing import Row
from mmiformer.zoo.effort import TEST_IMAGES
from mmiformer.zoo.entries import MIM, Entry, config_file, entries

# Whose published results are by other recipes than the configs here.
_OTHER_RECIPES = 'published of runs by other recipes; trained here by that of iFormer.'
_NO_CONFIG = 'in no library here: the published row alone.'
_RERUNS = 'the authors say that some released files are re-runs and may differ slightly from the table.'
# mmengine's log: Epoch(test) [ 50/5000], Iter(train) [ 50/40000], Epoch(train) [1][ 50/7330].
_LOGGED = re.compile(r'\((?:test|train)\)\s+(?:\[\d+\])?\[\s*(\d+)/\s*(\d+)\]')
_SUFFIXES = ('.pth', '.pt', '.safetensors')


# Is told of iterations done and of all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Launch:
    """How processes are started.

    Attributes:
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.
        gpus: Number of processes. Defaults to 1.
        partition: Slurm's. Defaults to None.
    """

    launcher: str = 'none'
    gpus: int = 1
    partition: str | None = None

    def command(self, tool: str, *arguments: str) -> list[str]:
        """The command that runs one of the tools.

        Args:
            tool: ``'train'`` or ``'test'``.
            arguments: Its arguments.
        """
        script = [str(MIM / 'tools' / f'{tool}.py'), *arguments]
        if self.launcher == 'none':
            return [sys.executable, '-u', *script]
        if self.launcher == 'pytorch':
            run = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={self.gpus}']
            return [sys.executable, '-u', *run, *script, '--launcher', 'pytorch']
        node = min(self.gpus, 8)
        run = [
            f'--gres=gpu:{node}',
            f'--ntasks={self.gpus}',
            f'--ntasks-per-node={node}',
            '--kill-on-bad-exit=1',
        ]
        partition = [f'--partition={self.partition}'] if self.partition else []
        return ['srun', *partition, *run, sys.executable, '-u', *script, '--launcher', 'slurm']


def rows_of(
    tasks: Sequence[str], patterns: Sequence[str], checkpoints: Path
) -> list[tuple[Row, Entry | None]]:
    """The rows of the table: all that is published, and what else is asked for or has a checkpoint.

    Args:
        tasks: Keys of :data:`~mmiformer.zoo.entries.TASKS`.
        patterns: Names of configs, with ``*`` for any part; empty for all.
        checkpoints: Folder of the weight files.

    Returns:
        Each with its entry, None for a network that no library here has.

    Raises:
        UserError: If a pattern fits nothing.
    """
    names = [entry.name for entry in entries()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"--rows '{pattern}': fits no config; see configs/, e.g. 'maskrcnn_iformer_*'.")
    chosen: list[tuple[Row, Entry | None]] = []
    for task in tasks:
        own = [entry for entry in entries() if entry.task == task]
        rows: list[tuple[Row, Entry | None]] = []
        rows += [(_row_of(entry), entry) for entry in own if _is_wanted(entry, patterns, checkpoints)]
        if not patterns:
            rows += [(row, None) for row in _rows_without_config(task, own)]
        chosen += rows if task == 'cls' else sorted(rows, key=lambda pair: _place(pair[0]))
    return chosen


def _is_wanted(entry: Entry, patterns: Sequence[str], checkpoints: Path) -> bool:
    if patterns:
        return any(fnmatch.fnmatch(entry.name, pattern) for pattern in patterns)
    return bool(entry.published) or find_checkpoint(entry, checkpoints) is not None


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


def last_checkpoint(work_dir: Path) -> Path | None:
    """The checkpoint that a training run ended with, also if its folder was moved; else None."""
    mark = work_dir / 'last_checkpoint'
    if not mark.is_file():
        return None
    file = Path(mark.read_text().strip())
    return next((path for path in (work_dir / file.name, file) if path.is_file()), None)


def where_to_get(entry: Entry, folder: Path) -> str:
    """A sentence for a row without a checkpoint."""
    if entry.weights:
        return f'{folder / entry.weights.file}: not found; download it from {entry.weights.url}.'
    return (
        f'{folder / entry.name}.pth: not found, and no weights were released; train it (--train), or put '
        'your checkpoint or its work dir there.'
    )


def sha256_of(file: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        for block in iter(lambda: stream.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def train(
    entry: Entry,
    work_dir: Path,
    launch: Launch,
    options: Sequence[str],
    data: Path | None,
    progress: Progress,
) -> str | None:
    """Trains a config, or goes on where its training was stopped.

    Args:
        entry: Of the zoo.
        work_dir: Of the training run.
        launch: How it is started.
        options: Further arguments of ``tools/train.py``.
        data: Folder of the data sets, None for where the configs look.
        progress: Is told of iterations done and of all.

    Returns:
        None if it succeeded, else why not, in a sentence.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    return run_tool(training_command(entry, work_dir, launch, options), work_dir / 'log.txt', data, progress)


def training_command(entry: Entry, work_dir: Path, launch: Launch, options: Sequence[str]) -> list[str]:
    """The command of :func:`train`; the learning rate follows the batch that the processes make up."""
    arguments = (str(config_file(entry.name)), '--work-dir', str(work_dir), '--resume', '--auto-scale-lr')
    return launch.command('train', *arguments, *options)


@dataclass
class Evaluation:
    """One row's evaluation, as a run of ``tools/test.py``.

    Attributes:
        entry: Of the zoo.
        checkpoint: The weight file.
        folder: For the log, the work dir and the result.
        launch: How it is started.
        options: Further arguments of the tool.
        data: Folder of the data sets, None for where the configs look.
    """

    entry: Entry
    checkpoint: Path
    folder: Path
    launch: Launch
    options: tuple[str, ...] = ()
    data: Path | None = None

    @property
    def command(self) -> list[str]:
        """What is run."""
        arguments = (str(config_file(self.entry.name)), str(self.checkpoint), '--work-dir', str(self.folder))
        out = ('--out', str(self.folder / 'measured.json'))
        return self.launch.command('test', *arguments, *out, *self.options)

    def run(self, row: Row, progress: Progress) -> None:
        """Fills the row with what is measured, or with why it is not.

        A row that was measured before from the same file, config, data and options is taken as it is.

        Args:
            row: The table's.
            progress: Is told of batches done and of all.
        """
        digest = sha256_of(self.checkpoint)
        row.details.update(file=self.checkpoint.name, sha256=digest)
        row.trained = not (self.entry.weights and self.checkpoint.name == self.entry.weights.file)
        known = self.entry.weights.sha256 if self.entry.weights and not row.trained else None
        if known and digest != known:
            row.remarks.append(
                f'{self.checkpoint.name}: its SHA-256 is {digest[:8]}..., that of the released file, as a '
                f'third party reports, {known[:8]}...; fetch it again if it is meant to be that.'
            )
        key = dict(sha256=digest, command=self.command, data=self.data and str(self.data.resolve()))
        key['config'] = sha256_of(config_file(self.entry.name))
        kept = self.folder / 'measured.json'
        before = self.folder / 'key.json'
        if not (kept.is_file() and before.is_file() and json.loads(before.read_text()) == key):
            self.folder.mkdir(parents=True, exist_ok=True)
            kept.unlink(missing_ok=True)
            before.write_text(json.dumps(key))
            reason = run_tool(self.command, self.folder / 'log.txt', self.data, progress)
            if reason is None and not kept.is_file():
                reason = f'it ended without a result; see {self.folder / "log.txt"}.'
            if reason:
                row.status = 'failed'
                row.remarks.append(reason)
                return
        self._take(row, json.loads(kept.read_text()))

    def _take(self, row: Row, result: dict[str, Any]) -> None:
        for name, metric in METRICS.items():
            if metric.key in result['metrics']:
                row.measured[name] = round(float(result['metrics'][metric.key]) * metric.scale, 4)
        if not row.measured:
            row.status = 'failed'
            row.remarks.append(
                'its evaluation gave no figures, as mmdet does where nothing at all is detected; see '
                f'{self.folder / "log.txt"}.'
            )
            return
        row.status = 'measured'
        images, expected = result['images'], TEST_IMAGES[self.entry.task]
        row.comparable = images == expected
        row.details.update(images=images, seconds=round(result['seconds'], 1), machine=result['machine'])
        if not row.comparable:
            row.remarks.append(f'measured on {images} of {expected:,} images: not to be compared.')
        if not row.published:
            row.remarks.append('nothing is published of it.')
        elif self.entry.family != 'iFormer' and self.entry.task != 'cls':
            row.remarks.append(_OTHER_RECIPES)
        elif not row.trained and self.entry.task != 'cls':
            row.remarks.append(_RERUNS)
        far = [metric for metric in row.metrics() if row.within(metric) is False]
        if far:
            row.remarks.append(
                f'further away than the tolerance in {", ".join(METRICS[m].title for m in far)}.'
            )


def run_tool(command: list[str], log: Path, data: Path | None, progress: Progress) -> str | None:
    """Runs a command to its end, its output into a log.

    Args:
        command: What to run.
        log: File to write.
        data: Folder of the data sets, None for where the configs look.
        progress: Is told of iterations done and of all, as mmengine logs them.

    Returns:
        None if it succeeded, else why not, in a sentence.
    """
    environment = dict(os.environ, **(dict(MMIFORMER_DATA=str(data.resolve())) if data else {}))
    lines: list[str] = []
    with log.open('w', encoding='utf-8') as file:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env=environment,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                lines.append(line.strip())
                if found := _LOGGED.search(line):
                    progress(int(found[1]), int(found[2]))
            code = process.wait()
        finally:
            if process.poll() is None:  # Interrupted.
                process.terminate()
                process.wait()
    if code == 0:
        return None
    sentence = next((line.removeprefix('error: ') for line in lines if line.startswith('error: ')), None)
    if sentence is None:
        last = next((line for line in reversed(lines) if line), 'no output')
        how = 'killed by signal' if code < 0 else 'ended with exit code'
        sentence = f'{how} {abs(code)}: {last[:300]} (see {log})'
    return sentence
