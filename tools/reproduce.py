"""Fills the published tables with what you measure: ``python tools/reproduce.py --checkpoints DIR``."""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Measure the published tables, row by row; a stopped run goes on where it was.'
    )
    add = parser.add_argument
    add(
        '--task',
        nargs='+',
        choices=['cls', 'det', 'seg'],
        default=['cls', 'det', 'seg'],
        help='tables to fill (default: all)',
    )
    add('--rows', nargs='+', default=[], metavar='CONFIG', help="configs by name, e.g. 'maskrcnn_iformer_*'")
    add('--checkpoints', type=Path, metavar='DIR', help='weight files: released, or CONFIG.pth')
    add(
        '--data',
        type=Path,
        metavar='DIR',
        help='folder with coco/, ade/, imagenet/',
    )
    add('--limit', type=int, metavar='N', help='evaluate on the first N images alone')
    add('--out', type=Path, default=Path('work_dirs/reproduce'), metavar='DIR', help='folder to write to')
    add('--train', action='store_true', help='train each row, then evaluate its last checkpoint')
    add('--dry-run', action='store_true', help='say what would be done, and about how long it takes')
    add('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='distributed launcher')
    add('--gpus', type=int, default=1, help='processes of the launcher (default: 1)')
    add('--partition', help="Slurm's partition")
    add('--cfg-options', nargs='+', default=[], help='settings to override in every config, as key=value')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

import datetime
import logging
import os
import shlex
import signal
import sys
from functools import partial

from mmengine.logging import MMLogger
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    track,
)
from rich.table import Table

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer.apis import cli
from mmiformer.apis.hub import get_config
from mmiformer.engine.resuming import last_checkpoint
from mmiformer.tasks import MAIN_METRICS, METRICS
from mmiformer.utils.errors import UserError
from mmiformer.utils.machine import MODULES, describe_machine
from mmiformer.zoo import reproducing
from mmiformer.zoo.comparing import Row, write
from mmiformer.zoo.effort import gpu_hours
from mmiformer.zoo.entries import Entry
from mmiformer.zoo.launching import Launch, OnProgress


def main() -> None:
    """And plans, trains or evaluates row by row."""
    args = parse_args()
    check_arguments(args)
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # It tells of every config that is read.
    if args.data:
        os.environ['MMIFORMER_DATA'] = str(args.data.resolve())
    rows = reproducing.rows_of(args.task, args.rows, args.checkpoints)
    if args.dry_run:
        plan(rows, args, Console())
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ('SIGTERM', 'SIGHUP'):
        if hasattr(signal, name):  # So that the running tool ends too.
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    console = Console(stderr=True)
    command = shlex.join(['python', *sys.argv])
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        outer = bar.add_task('rows', total=len(rows))
        for row, entry in rows:
            if entry is not None:
                inner = bar.add_task(row.name, total=None)
                measure(row, entry, args, partial(show_progress, bar, inner))
                bar.remove_task(inner)
            bar.advance(outer)
            console.print(summary(row), highlight=False)
            if row.status in ('measured', 'failed'):  # The others took no time.
                write([row for row, _ in rows], args.out, command, circumstances())
    files = write([row for row, _ in rows], args.out, command, circumstances())
    for file in files:
        print(file)
    failed = ', '.join(row.name for row, _ in rows if row.status == 'failed')
    if failed:
        raise UserError(f'rows failed ({failed}); {files[0]} says why.')


def check_arguments(args: argparse.Namespace) -> None:
    """Raises where a value cannot be."""
    if not args.train and args.checkpoints is None:
        raise UserError('--checkpoints: name the folder with the weight files, or add --train.')
    for name, folder in (('--checkpoints', args.checkpoints), ('--data', args.data)):
        if folder and not folder.is_dir():
            raise UserError(f'{name} {folder}: no such folder.')
    if args.gpus > 1 and args.launcher == 'none':
        raise UserError(f'--gpus {args.gpus}: needs --launcher pytorch or slurm.')
    if args.limit is not None and args.limit < 1:
        raise UserError(f'--limit {args.limit}: expected a number of images from 1 on.')


def show_progress(bar: Progress, task: TaskID, done: int, total: int) -> None:
    """Moves a bar."""
    bar.update(task, completed=done, total=total)


def measure(row: Row, entry: Entry, args: argparse.Namespace, progress: OnProgress) -> None:
    """Trains or finds the weights of a row, and evaluates them."""
    job = job_of(entry, args)
    if args.train:
        reason = job.train(progress)
        if reason:
            row.status = 'failed'
            row.remarks.append(reason)
            return
        checkpoint = last_checkpoint(job.training_folder)
    else:
        checkpoint = reproducing.find_checkpoint(entry, args.checkpoints)
    if checkpoint is None:
        row.status = 'missing'
        row.remarks.append(reproducing.missing_reason(entry, args.checkpoints))
        return
    job.evaluate(row, checkpoint, progress)


def job_of(entry: Entry, args: argparse.Namespace) -> reproducing.Job:
    """The work on a row as the arguments say."""
    launch = Launch(args.launcher, args.gpus, args.partition)
    return reproducing.Job(entry, args.out, launch, tuple(args.cfg_options), args.limit)


def summary(row: Row) -> str:
    """A row in a line."""
    parts = [row.status, *(_figure(row, m) for m in MAIN_METRICS if m in row.measured), *row.remarks]
    return f'{row.name}: {"; ".join(part.rstrip(".") for part in parts)}'


def _figure(row: Row, metric: str) -> str:
    published = f' (published {row.published[metric]:g})' if metric in row.published else ''
    return f'{METRICS[metric].title} {row.measured[metric]:.2f}{published}'


def circumstances() -> str:
    """Date, machine and versions."""
    machine = describe_machine(MODULES)
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    date = datetime.datetime.now().astimezone().isoformat(timespec='minutes')
    return f'{date}; {machine["processor"]}, {machine["cores"]} cores; {versions}'


def plan(rows: list[tuple[Row, Entry | None]], args: argparse.Namespace, console: Console) -> None:
    """Prints what would be done."""
    table = Table(box=box.SIMPLE_HEAD)
    for head in ('row', 'published', 'weights'):
        table.add_column(head, no_wrap=True)
    table.add_column('V100 h', justify='right', no_wrap=True, min_width=6)
    total = 0.0
    lines = []
    for row, entry in track(rows, 'counting', console=Console(stderr=True), transient=True):
        figures = ', '.join(
            f'{METRICS[m].title} {row.published[m]:g}' for m in MAIN_METRICS if m in row.published
        )
        weights, hours, line = work_on(row, entry, args)
        total += hours or 0
        lines.append(line)
        table.add_row(row.name, figures or 'not published', weights, duration(hours))
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    console.print(
        f'\nAbout {total:.1f} hours of one V100 in float32, by multiply-adds; up to three times as much '
        'where depthwise convolutions and attention prevail.',
        highlight=False,
    )


def duration(hours: float | None) -> str:
    """Hours, of small ones two digits."""
    if hours is None:
        return '-'
    return f'{hours:.1f}' if hours >= 1 else f'{hours:.2g}'


def work_on(row: Row, entry: Entry | None, args: argparse.Namespace) -> tuple[str, float | None, str]:
    """Of a row: its weights, the GPU hours that it takes, and its command or what is missing."""
    if entry is None:
        return '-', None, f'{row.name}: {" ".join(row.remarks)}'
    job = job_of(entry, args)
    checkpoint = None if args.train else reproducing.find_checkpoint(entry, args.checkpoints)
    if checkpoint is None and not args.train:
        return 'missing', None, reproducing.missing_reason(entry, args.checkpoints)
    try:
        hours = gpu_hours(get_config(entry.name), entry.task, training=args.train, images=args.limit)
    except ImportError as error:
        return 'failed', None, f'{row.name}: its network needs another package ({error}).'
    command = job.training_command() if checkpoint is None else job.evaluation_command(checkpoint)
    data = [f'MMIFORMER_DATA={os.environ["MMIFORMER_DATA"]}'] if os.environ.get('MMIFORMER_DATA') else []
    return checkpoint.name if checkpoint else 'trained', hours, shlex.join([*data, *command])


if __name__ == '__main__':
    cli.run(main)
