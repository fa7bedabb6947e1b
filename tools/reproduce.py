"""Fills the published tables with what you measure: ``python tools/reproduce.py --checkpoints DIR``."""

import argparse
import datetime
import logging
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

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
from mmiformer import cli
from mmiformer.errors import UserError
from mmiformer.machine import describe_machine
from mmiformer.results.comparing import Row, write
from mmiformer.results.metrics import MAIN_METRICS, METRICS
from mmiformer.zoo import reproducing
from mmiformer.zoo.effort import gpu_hours
from mmiformer.zoo.entries import TASKS, Entry
from mmiformer.zoo.hub import get_config


def main() -> None:
    """Parses the arguments, and plans, trains or evaluates row by row."""
    args = parse_arguments()
    console = Console(stderr=True)
    rows = reproducing.rows_of(args.task, args.rows, args.checkpoints)
    if args.dry_run:
        logging.getLogger('mmengine').setLevel(logging.WARNING)
        plan(rows, args, Console())
        return
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the running tool ends too.
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        outer = bar.add_task('rows', total=len(rows))
        for row, entry in rows:
            if entry is not None:
                inner = bar.add_task(row.name, total=None)
                fill(row, entry, args, partial(show_progress, bar, inner))
                bar.remove_task(inner)
            bar.advance(outer)
            console.print(summary(row), highlight=False)
            files = write([row for row, _ in rows], args.out, note())
    for file in files:
        print(file)
    if any(row.status == 'failed' for row, _ in rows):
        failed = ', '.join(row.name for row, _ in rows if row.status == 'failed')
        raise UserError(f'rows failed ({failed}); {files[0]} says why.')


def show_progress(bar: Progress, task: TaskID, done: int, total: int) -> None:
    """Moves a bar."""
    bar.update(task, completed=done, total=total)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Measure the published tables, row by row; a stopped run goes on where it was.'
    )
    add = parser.add_argument
    add('--task', nargs='+', choices=TASKS, default=list(TASKS), help='tables to fill (default: all)')
    add('--rows', nargs='+', default=[], metavar='CONFIG', help="configs by name, e.g. 'maskrcnn_iformer_*'")
    add(
        '--checkpoints', type=Path, required=True, metavar='DIR', help='weight files: released, or CONFIG.pth'
    )
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
    args = parser.parse_args()
    if not args.train and not args.checkpoints.is_dir():
        raise UserError(f'{args.checkpoints}: no such folder; name the one with the weight files.')
    if args.data and not args.data.is_dir():
        raise UserError(f'{args.data}: no such folder; name the one that holds coco/, ade/ or imagenet/.')
    if args.gpus > 1 and args.launcher == 'none':
        raise UserError(f'--gpus {args.gpus}: needs --launcher pytorch or slurm.')
    return args


def fill(row: Row, entry: Entry, args: argparse.Namespace, progress: reproducing.Progress) -> None:
    """Trains or finds the weights of a row, and evaluates them."""
    checkpoint = reproducing.find_checkpoint(entry, args.checkpoints)
    if args.train:
        work_dir = args.out / 'train' / entry.name
        launch, options = launch_of(args), cfg_options(args)
        reason = reproducing.train(entry, work_dir, launch, options, args.data, progress)
        checkpoint = reproducing.last_checkpoint(work_dir)
        if reason or checkpoint is None:
            row.status = 'failed'
            row.remarks.append(reason or f'{work_dir}: training left no checkpoint there.')
            return
    if checkpoint is None:
        row.status = 'missing'
        row.remarks.append(reproducing.where_to_get(entry, args.checkpoints))
        return
    evaluation(entry, checkpoint, args).run(row, progress)


def evaluation(entry: Entry, checkpoint: Path, args: argparse.Namespace) -> reproducing.Evaluation:
    """What evaluates an entry."""
    limit = ['--limit', str(args.limit)] if args.limit is not None else []
    options = (*limit, *cfg_options(args))
    folder = args.out / 'rows' / entry.name
    return reproducing.Evaluation(entry, checkpoint, folder, launch_of(args), options, args.data)


def launch_of(args: argparse.Namespace) -> reproducing.Launch:
    """How the tools are started."""
    return reproducing.Launch(args.launcher, args.gpus, args.partition)


def cfg_options(args: argparse.Namespace) -> list[str]:
    """Settings for every config, as the tools take them."""
    return ['--cfg-options', *args.cfg_options] if args.cfg_options else []


def summary(row: Row) -> str:
    """A row in a line."""
    parts = [row.status, *(_figure(row, m) for m in MAIN_METRICS if m in row.measured), *row.remarks]
    return f'{row.name}: {"; ".join(part.rstrip(".") for part in parts)}'


def _figure(row: Row, metric: str) -> str:
    published = f' (published {row.published[metric]:g})' if metric in row.published else ''
    return f'{METRICS[metric].title} {row.measured[metric]:.2f}{published}'


def note() -> str:
    """Command, date, machine and versions."""
    machine = describe_machine(('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmiformer'))
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    date = datetime.datetime.now().astimezone().isoformat(timespec='minutes')
    command = shlex.join(['python', *sys.argv])
    return f'{command}\n\n{date}; {machine["processor"]}, {machine["cores"]} cores; {versions}'


def plan(rows: list[tuple[Row, Entry | None]], args: argparse.Namespace, console: Console) -> None:
    """Prints what would be done."""
    table = Table(box=box.SIMPLE_HEAD)
    for head in ('row', 'published', 'weights'):
        table.add_column(head, no_wrap=True)
    table.add_column('V100 hours', justify='right')
    total = 0.0
    lines = []
    for row, entry in track(rows, 'counting', console=Console(stderr=True), transient=True):
        figures = ', '.join(
            f'{METRICS[m].title} {row.published[m]:g}' for m in MAIN_METRICS if m in row.published
        )
        weights, hours, line = work_on(row, entry, args)
        total += hours or 0
        lines.append(line)
        table.add_row(row.name, figures or 'not published', weights, '-' if hours is None else f'{hours:.2f}')
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    console.print(
        f'\nAbout {total:.1f} hours of one V100 in float32, by multiply-adds; up to three times as much '
        'where depthwise convolutions and attention prevail.',
        highlight=False,
    )


def work_on(row: Row, entry: Entry | None, args: argparse.Namespace) -> tuple[str, float | None, str]:
    """Of a row: its weights, the GPU hours that it takes, and its command or what is missing."""
    if entry is None:
        return '-', None, f'{row.name}: {" ".join(row.remarks)}'
    if args.train:
        work_dir = args.out / 'train' / entry.name
        command = reproducing.training_command(entry, work_dir, launch_of(args), cfg_options(args))
        return 'trained', gpu_hours(get_config(entry.name), entry.task, training=True), shlex.join(command)
    checkpoint = reproducing.find_checkpoint(entry, args.checkpoints)
    if checkpoint is None:
        return 'missing', None, reproducing.where_to_get(entry, args.checkpoints)
    hours = gpu_hours(get_config(entry.name), entry.task, training=False, images=args.limit)
    return checkpoint.name, hours, shlex.join(evaluation(entry, checkpoint, args).command)


if __name__ == '__main__':
    cli.run(main)
