"""Times what watches over a training: ``python tools/time_hooks.py CONFIG [--demo]``."""

import argparse

from runner_arguments import add_runner_arguments


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='What the hooks of tools/train.py cost in each step, timed inside of a real training. On '
        'a GPU a hook also waits for what was begun before it, so the shares are of use on CPUs only.'
    )
    add_runner_arguments(parser)
    parser.add_argument('--steps', type=int, default=20, help='steps to time (default: 20)')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer.apis import cli
from mmiformer.engine import AtomicCheckpointHook, CheckFiniteHook, prepare_training
from mmiformer.engine.seeding import SeedStepHook
from mmiformer.utils.cpu import prepare_for_cpu
from mmiformer.utils.errors import UserError

WATCHED = {
    'random numbers of the step': (SeedStepHook, ['before_train_iter']),
    'losses finite': (CheckFiniteHook, ['_keep', '_check_losses']),
    'gradients finite': (CheckFiniteHook, ['_check_gradients']),
}


def main() -> None:
    """Trains some steps, and prints what share of them the hooks take."""
    args = parse_args()
    if args.steps < 1:
        raise UserError(f'--steps {args.steps}: expected 1 or more.')
    times: dict[str, list[list[float]]] = defaultdict(list)
    for name, (hook, methods) in WATCHED.items():
        for method in methods:
            times[name].append([])
            setattr(hook, method, timed(getattr(hook, method), times[name][-1]))
    saves: list[float] = []
    save = timed(AtomicCheckpointHook._save_checkpoint, saves)
    AtomicCheckpointHook._save_checkpoint = save  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        args.work_dir = folder
        cfg = cli.prepare(args, splits=('train',))
        prepare_training(cfg)
        steps = args.steps + 3
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=steps)
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=steps)
        cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None)
        cfg.log_processor.by_epoch = False
        runner = Runner.from_cfg(cfg)
        prepare_for_cpu(runner.model)
        runner.train()
    whole = np.array(runner.message_hub.get_scalar('train/time').data[0])[3:]
    table = Table(title=f'{len(whole)} steps of {1000 * np.median(whole):.0f} ms (median)')
    for column in ('', 'ms a step', 'of a step'):
        table.add_column(column, justify='right' if column else 'left')
    for name in WATCHED:
        # Called once a step, or less where gradients are added up.
        each = sum(1000 * np.median(calls) * len(calls) / steps for calls in times[name])
        table.add_row(name, f'{each:.2f}', f'{each / np.median(whole) / 10:.2f} %')
    Console().print(table)
    print(f'a checkpoint took {saves[0]:.2f} s')


def timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    """A function that does the same and notes the seconds of each call."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        times.append(time.perf_counter() - start)
        return result

    return call


if __name__ == '__main__':
    cli.run(main)
