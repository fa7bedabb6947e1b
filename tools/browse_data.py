"""Draws augmented training images with their ground truth: ``python tools/browse_data.py CONFIG``."""

from pathlib import Path

from arguments import ArgumentParser
from mmengine.config import DictAction

parser = ArgumentParser(description='Draw training images as the network gets them.')
add = parser.add_argument
add('config', help='config file')
add('--count', type=int, default=16, help='number of images, from the whole data set (default: 16)')
add('--out', type=Path, help='picture to write (default: CONFIG_training_images.png in this folder)')
add('--demo', action='store_true', help='use miniature data that is drawn on the spot, without downloads')
add('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

from mmiformer.apis import cli
from mmiformer.datasets.checks import build_datasets
from mmiformer.engine.predictions import draw_training_images
from mmiformer.engine.seeding import reseed_each_step


def main() -> None:
    """Draws, and prints the path."""
    cfg = cli.load_config(args.config, args.cfg_options, args.demo)
    cli.check_data(cfg, ('train',))
    reseed_each_step(cfg)
    out = args.out or Path(f'{Path(args.config).stem}_training_images.png')
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_training_images(build_datasets(cfg, 'train')[0], cfg, out, args.count)
    print(out)


if __name__ == '__main__':
    cli.run(main)
