"""Draws the predictions for one image: ``python tools/demo.py IMAGE CONFIG CHECKPOINT``."""

import argparse

from mmengine.config import DictAction

parser = argparse.ArgumentParser(description='Draw the predictions of a model for an image.')
parser.add_argument('image', help='image file')
parser.add_argument('config', help='config file')
parser.add_argument('checkpoint', help='path or https address of the weights')
parser.add_argument('--out', help='picture to write (default: IMAGE_prediction.png in this folder)')
parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
parser.add_argument('--score-thr', type=float, default=0.3, help='least score to draw (default: 0.3)')
parser.add_argument('--compile', action='store_true', help='compile the backbone with torch.compile')
parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

from pathlib import Path

from mmiformer.apis import cli
from mmiformer.apis.inference import build_model, optimize_for_inference, predict, read_image
from mmiformer.tasks import task_of
from mmiformer.utils.errors import UserError


def main() -> None:
    """Predicts, and writes the picture."""
    device = cli.require_device(args.device)
    cfg = cli.load_config(args.config, args.cfg_options)
    out = Path(args.out or f'{Path(args.image).stem}_prediction.png')
    if out.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise UserError(out, 'expected a name that ends in .png or .jpg', 'change --out')

    model = optimize_for_inference(build_model(cfg, args.checkpoint, device), args.compile)
    sample = predict(model, cfg, args.image)
    painter = task_of(cfg).painter(cfg, model.dataset_meta, args.score_thr)
    out.parent.mkdir(parents=True, exist_ok=True)
    painter.save(read_image(cfg, args.image), sample, out)
    print(f'{painter.summary(sample)}: {out}')


if __name__ == '__main__':
    cli.run(main)
