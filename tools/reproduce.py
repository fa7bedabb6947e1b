"""Measures the published tables: ``python tools/reproduce.py --checkpoints DIR``."""

from pathlib import Path

from arguments import ArgumentParser

parser = ArgumentParser(
    description='Measure the published tables row by row; the same command resumes a stopped run.'
)
add = parser.add_argument
tasks = ['cls', 'det', 'seg']
add('--task', nargs='+', choices=tasks, default=tasks, help='tables to measure (default: all)')
add('--rows', nargs='+', default=[], metavar='CONFIG', help="configs by name, e.g. 'maskrcnn_iformer_*'")
add('--checkpoints', type=Path, metavar='DIR', help='weight files: the released ones, or CONFIG.pth')
add('--train', action='store_true', help='train each row and evaluate its last checkpoint')
add('--data', type=Path, metavar='DIR', help='folder with coco/, ade/, imagenet/')
add('--limit', type=int, metavar='N', help='evaluate on the first N images only')
add('--out', type=Path, default=Path('work_dirs/reproduce'), metavar='DIR', help='folder to write to')
add('--dry-run', action='store_true', help='only print the commands, and about how long they take')
add('--gpus', type=int, default=1, help='number of processes, one per GPU (default: 1)')
add('--cfg-options', nargs='+', default=[], help='overrides of every config, as key=value')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import datetime
import logging
import os
import shlex
import signal
import sys
from functools import partial

from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmiformer.apis import cli
from mmiformer.apis.hub import get_config
from mmiformer.tasks import MAIN_METRICS, METRICS
from mmiformer.utils import machine
from mmiformer.utils.errors import UserError
from mmiformer.zoo.comparing import Row, write
from mmiformer.zoo.effort import gpu_hours
from mmiformer.zoo.reproducing import Job, find_checkpoint, missing_reason, rows_of


def main() -> None:
    """Measures the rows, or prints what it would do."""
    if args.train:
        args.checkpoints = None
    elif args.checkpoints is None:
        raise UserError('--checkpoints', 'missing', 'name the folder with the weight files, or add --train')
    elif not args.checkpoints.is_dir():
        raise UserError(f'--checkpoints {args.checkpoints}', 'no such folder', 'name another one')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # It logs every config that is read.
    if args.data:
        os.environ['MMIFORMER_DATA'] = str(args.data.resolve())
    rows = [
        (row, Job(entry, args.out, args.gpus, tuple(args.cfg_options), args.limit) if entry else None)
        for row, entry in rows_of(args.task, args.rows, args.checkpoints)
    ]
    if args.dry_run:
        plan(rows)
    else:
        measure(rows)


def measure(rows: list[tuple[Row, Job | None]]) -> None:
    """Measures the rows, and writes the table after each of them."""
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # The exception ends the running tool, too.
    table = [row for row, _ in rows]
    date = datetime.datetime.now().astimezone().isoformat(timespec='minutes')
    environment = f'{date}; {machine.summary(machine.describe_machine(machine.MODULES))}'
    command = shlex.join(['python', *sys.argv])
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        for row, job in bar.track(rows, description='rows'):
            if job:
                task = bar.add_task(row.name, total=None)
                job.measure(row, args.checkpoints, partial(bar.update, task))
                bar.remove_task(task)
            bar.console.print(f'{row.name}: {summary(row)}', highlight=False)
            if row.status in ('measured', 'failed'):  # The others took no time.
                write(table, args.out, command, environment)
    files = write(table, args.out, command, environment)
    print(*files, sep='\n')
    failed = ', '.join(row.name for row in table if row.status == 'failed')
    if failed:
        raise UserError(failed, 'failed', f'see the reasons in {files[0]}')


def summary(row: Row) -> str:
    """Status, figures and remarks of a row."""
    figures = [
        f'{METRICS[metric].title} {value:.2f} (published: {row.published.get(metric, "-")})'
        for metric, value in row.measured.items()
        if metric in MAIN_METRICS
    ]
    return '; '.join([row.status, *figures, *row.remarks])


def plan(rows: list[tuple[Row, Job | None]]) -> None:
    """Prints the published figures, weights, hours and command of each row."""
    data = [f'MMIFORMER_DATA={args.data.resolve()}'] if args.data else []
    total = 0.0
    for row, job in rows:
        published = [f'{METRICS[m].title} {row.published[m]}' for m in MAIN_METRICS if m in row.published]
        checkpoint = find_checkpoint(job.entry, args.checkpoints) if job and args.checkpoints else None
        if job and (checkpoint or args.train):
            hours = gpu_hours(get_config(row.name), args.train, args.limit)
            command = job.evaluation_command(checkpoint) if checkpoint else job.training_command()
            weights, remark = checkpoint.name if checkpoint else 'trained', shlex.join([*data, *command])
        else:
            hours, weights = 0.0, 'missing' if job else '-'
            remark = missing_reason(job.entry, args.checkpoints) if job else ' '.join(row.remarks)
        total += hours
        time = f'{hours:8.2f} h' if hours else ''
        print(f'{row.name:32} {", ".join(published):28} {weights:26} {time}\n    {remark}')
    print(
        f'About {total:.1f} hours of one V100 in float32, by multiply-adds; up to three times as much for '
        'depthwise convolutions and attention.'
    )


if __name__ == '__main__':
    cli.run(main)
