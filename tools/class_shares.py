"""Reads every image and mask of a config's data set: ``python tools/class_shares.py CONFIG``."""

from arguments import ArgumentParser
from mmengine.config import DictAction

parser = ArgumentParser(
    description='Check every mask of a segmentation data set and count its pixels: the share of each '
    'class, weights that balance them, and the mIoU of predicting the most frequent class everywhere.'
)
parser.add_argument('config', help='config file, e.g. configs/segmentation/fpn_iformer_t_camvid.py')
parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='default: train')
parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import numpy as np
from mmengine.dataset import ConcatDataset
from rich.progress import track

from mmiformer.apis import cli
from mmiformer.datasets.checks import build_datasets, check_files
from mmiformer.tasks import task_of
from mmiformer.tasks.segmentation import balancing_weights
from mmiformer.utils.errors import UserError


def main() -> None:
    """Reads the files, and prints a table and the weights."""
    cfg = cli.load_config(args.config, args.cfg_options)
    if task_of(cfg, args.config).name != 'seg':
        raise UserError(args.config, 'is not a segmentation config', 'name one')
    check_files(cfg, args.split)
    steps = [dict(type='LoadCheckedImage'), dict(type='LoadCheckedSegMap')]
    dataset = ConcatDataset(build_datasets(cfg, args.split, pipeline=steps))
    numbers = track(range(len(dataset)), f'Reading {len(dataset)} masks', transient=True)
    counts = np.array([np.bincount(dataset[i]['gt_seg_map'].ravel(), minlength=256) for i in numbers])

    names = [name.strip() for name in dataset.metainfo['classes']]
    pixels, images = counts.sum(0), (counts > 0).sum(0)
    shares = pixels[: len(names)] / pixels[: len(names)].sum()
    weights = balancing_weights(pixels[: len(names)])
    print(f'{args.split}: {len(dataset)} images, {pixels[255] / pixels.sum():.1%} unlabelled')
    print(f'{"class":<24}  pixels  images  weight')
    for name, share, number, weight in zip(names, shares, images[: len(names)], weights, strict=True):
        print(f'{name:<24} {share:7.2%} {number:7} {weight:7.2f}')
    print(f'class_weight=[{", ".join(f"{w:.2f}" for w in weights)}]')
    print(
        f"mIoU of predicting '{names[shares.argmax()]}' everywhere: {shares.max() / (shares > 0).sum():.2%} "
        f'over the {(shares > 0).sum()} classes that occur'
    )


if __name__ == '__main__':
    cli.run(main)
