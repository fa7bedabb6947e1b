"""Compares how configs learn: ``python tools/compare_training.py CONFIG CONFIG --seeds 0 1 2``."""

from pathlib import Path

from arguments import ArgumentParser
from mmengine.config import DictAction

parser = ArgumentParser(
    description='Train configs with the same budget and several seeds, evaluate each on its test data, and '
    'compare means and spreads; the same command resumes a stopped run.'
)
add = parser.add_argument
add('configs', nargs='+', help='config files')
add('--seeds', nargs='+', type=int, default=[0, 1, 2], help='seeds of each (default: 0 1 2)')
budget = parser.add_mutually_exclusive_group()
budget.add_argument(
    '--iterations', type=int, help='training iterations of each (default: those of its config)'
)
budget.add_argument('--cpu-minutes', type=float, help='minutes of CPU time of each, by two short runs')
add('--demo', action='store_true', help='use miniature data that is drawn on the spot, without downloads')
add('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides of all configs')
add('--jobs', type=int, default=1, help='number of runs at a time (default: 1)')
add('--out', type=Path, default=Path('work_dirs/compare_training'), help='folder to write to')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import shlex
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmiformer.apis import cli
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write
from mmiformer.utils.machine import MODULES, describe_machine, summary
from mmiformer.zoo import launching
from mmiformer.zoo.trials import Trial, iterations_in, plot, table, training_iterations, with_iterations


def main() -> None:
    """Trains and tests each config with each seed, then writes table and picture."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    configs = {Path(file).stem: cli.load_config(file, args.cfg_options, args.demo) for file in args.configs}
    for name in ('iterations', 'cpu_minutes', 'jobs'):
        if (value := getattr(args, name)) is not None and value <= 0:
            raise UserError(
                f'--{name.replace("_", "-")} {value}', 'expected a positive number', 'increase it'
            )
    if len(configs) < len(args.configs):
        raise UserError('CONFIG', 'two of the configs have the same file name', 'rename one')
    for cfg in configs.values():
        cli.check_data(cfg, ('train', 'val', 'test'))
    args.out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(args.jobs) as pool:

        def run(trial: Trial) -> dict[str, Any]:
            task = bar.add_task(trial.folder.name, total=None)
            result = trial.run(partial(bar.update, task))
            bar.remove_task(task)
            bar.console.print(trial.folder.name, result, highlight=False)
            return result

        for name, cfg in configs.items():
            iterations = args.iterations
            if args.cpu_minutes:
                task = bar.add_task(f'{name}: time of a step', total=None)
                progress = partial(bar.update, task)
                iterations = iterations_in(cfg, args.cpu_minutes, name, args.out / 'timing', progress)
                bar.remove_task(task)
            if iterations:
                configs[name] = with_iterations(cfg, iterations)
        trials = [Trial(name, cfg, seed, args.out) for seed in args.seeds for name, cfg in configs.items()]
        try:
            done = list(zip(trials, pool.map(run, trials), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            launching.terminate()
            raise
    results = {name: [result for trial, result in done if trial.name == name] for name in configs}
    text = table(results, {name: training_iterations(cfg) for name, cfg in configs.items()})
    page, picture = args.out / 'comparison.md', args.out / 'comparison.png'
    command = shlex.join(['python', *sys.argv])
    atomic_write(page, f'{text}\n`{command}`\n\n{summary(describe_machine(MODULES))}\n')
    plot(results, picture)
    print(text, page, picture, sep='\n')


if __name__ == '__main__':
    cli.run(main)
