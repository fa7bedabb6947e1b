"""Times the loading of a config's images step by step: ``python tools/time_pipeline.py CONFIG``."""

import argparse

from mmengine.config import DictAction


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='What loading an image costs, step by step, in one process with one thread: as a worker '
        'of the data loader has it. How many images a second the GPUs take, over the images a second of '
        'one worker, is the number of workers that feed them.'
    )
    parser.add_argument('config', help='config file, e.g. configs/classification/iformer_m_in1k.py')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='default: train')
    parser.add_argument('--images', type=int, default=200, help='images to load (default: 200)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

import time

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer.apis import cli
from mmiformer.datasets.checks import build_datasets, check_files
from mmiformer.utils.errors import UserError


def main() -> None:
    """Loads images in this process, and prints what each step takes."""
    args = parse_args()
    if args.images < 1:
        raise UserError(f'--images {args.images}: expected 1 or more.')
    cfg = cli.load_config(args.config, args.cfg_options)
    check_files(cfg, (args.split,))
    dataset = build_datasets(cfg, args.split)[0]
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    steps = dataset.pipeline.transforms
    numbers = np.random.default_rng(0).permutation(len(dataset))[: args.images]
    times = np.zeros((len(numbers), len(steps)))
    for row, number in enumerate(track(numbers.tolist(), f'Loading {len(numbers)} images', transient=True)):
        sample = dataset.get_data_info(number)
        for column, step in enumerate(steps):
            start = time.perf_counter()
            sample = step(sample)
            times[row, column] = 1000 * (time.perf_counter() - start)

    columns = (Column(name, justify='right') for name in ('mean', 'median', 'share'))
    table = Table('step', *columns, title=f'{args.split}: milliseconds an image, {len(numbers)} images')
    rows = [*zip((type(s).__name__ for s in steps), times.T, strict=True), ('all', times.sum(1))]
    for name, values in rows:
        share = values.sum() / times.sum()
        table.add_row(name, f'{values.mean():.2f}', f'{np.median(values):.2f}', f'{share:.0%}')
    Console().print(table)
    print(f'one worker loads {1000 / times.sum(1).mean():.0f} images a second')


if __name__ == '__main__':
    cli.run(main)
