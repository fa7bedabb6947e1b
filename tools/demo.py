"""Draws the predictions for one image: ``python tools/demo.py IMAGE CONFIG CHECKPOINT``."""

import argparse

from mmengine.config import DictAction


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Draw what a model sees in an image.')
    parser.add_argument('image', help='image file')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='path or https address of the weights')
    parser.add_argument('--out', help='picture to write (default: IMAGE_prediction.png in this folder)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of an object to draw (default: 0.3)'
    )
    parser.add_argument('--compile', action='store_true', help='compile the backbone with torch.compile')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer import cli
from mmiformer.errors import UserError
from mmiformer.inference import build_model, predict, quicken, read_image
from mmiformer.visualization import Painter, best_classes, class_shares, save_prediction


def main() -> None:
    """Predicts, and writes the picture."""
    args = parse_args()
    device = cli.require_device(args.device)
    cfg = cli.load_config(args.config, args.cfg_options)
    out = Path(args.out or f'{Path(args.image).stem}_prediction.png')
    if out.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise UserError(f'{out}: expected a name that ends in .png or .jpg.')

    model = quicken(build_model(cfg, args.checkpoint, device), args.compile)
    sample = predict(model, cfg, args.image)
    painter = Painter(cfg, model.dataset_meta, args.score_thr)
    save_prediction(painter, read_image(cfg, args.image), sample, out)
    if 'pred_label' in sample:
        print_bars(best_classes(sample, model.dataset_meta['classes']))
        print(out)
    else:
        print(f'{summary(sample, model.dataset_meta, args.score_thr)}: {out}')


def print_bars(best: list[tuple[str, float]]) -> None:
    """Prints classes with their probabilities as bars."""
    table = Table.grid(padding=(0, 1))
    for name, share in best:
        table.add_row(name, f'{share:6.1%}', Bar(size=1, begin=0, end=share, width=40))
    Console().print(table)


def summary(sample: Any, dataset_meta: dict[str, Any], score_thr: float) -> str:
    """What was found, in words."""
    if 'pred_sem_seg' in sample:
        shares = class_shares(sample.pred_sem_seg)
        return ', '.join(f'{dataset_meta["classes"][i].strip()} {share:.1%}' for i, share in shares.items())
    drawn = int((sample.pred_instances.scores >= score_thr).sum())
    return f'{drawn} objects with a score of at least {score_thr}'


if __name__ == '__main__':
    cli.run(main)
