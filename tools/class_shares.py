"""Reads every image and mask of a config's data set: ``python tools/class_shares.py CONFIG``."""

import argparse

from mmengine.config import DictAction


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Check every mask of a segmentation data set and count its pixels: what each class has, '
        'weights that balance them, and what naming the most frequent class everywhere would score.'
    )
    parser.add_argument('config', help='config file, e.g. configs/segmentation/fpn_iformer_t_camvid.py')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='default: train')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

import numpy as np
from mmengine.dataset import ConcatDataset
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer.apis import cli
from mmiformer.datasets.checks import build_datasets, check_files
from mmiformer.tasks import task_of
from mmiformer.utils.errors import UserError


def main() -> None:
    """Reads the files, and prints a table and the weights."""
    args = parse_args()
    cfg = cli.load_config(args.config, args.cfg_options)
    if task_of(cfg, args.config).name != 'seg':
        raise UserError(f'{args.config}: expected a segmentation config.')
    check_files(cfg, (args.split,))
    steps = [dict(type='LoadCheckedImage'), dict(type='LoadCheckedSegMap')]
    dataset = ConcatDataset(build_datasets(cfg, args.split, pipeline=steps))
    classes = dataset.metainfo['classes']
    numbers = track(range(len(dataset)), f'Reading {len(dataset)} masks', transient=True)
    counts = np.array([np.bincount(dataset[i]['gt_seg_map'].ravel(), minlength=256) for i in numbers])

    pixels = counts.sum(0)
    shares = pixels[: len(classes)] / pixels[: len(classes)].sum()
    # The inverse square root: the plain inverse has rare classes spill over into everything beside them.
    weights = np.where(shares > 0, shares.clip(1e-9) ** -0.5, 0)
    weights /= (weights * shares).sum()
    title = f'{args.split}: {len(dataset)} images, {pixels[255] / pixels.sum():.1%} unlabelled'
    columns = (Column(name, justify='right') for name in ('pixels', 'images', 'weight'))
    table = Table('class', *columns, title=title)
    for i, name in enumerate(classes):
        table.add_row(name.strip(), f'{shares[i]:.2%}', str((counts[:, i] > 0).sum()), f'{weights[i]:.2f}')
    Console().print(table)
    print(f'class_weight=[{", ".join(f"{w:.2f}" for w in weights)}]')
    most = int(shares.argmax())
    print(
        f"mIoU of naming '{classes[most].strip()}' everywhere: {shares[most] / (shares > 0).sum():.2%} "
        f'over the {(shares > 0).sum()} classes that occur'
    )


if __name__ == '__main__':
    cli.run(main)
