"""Draws the predictions for one image: ``python tools/demo.py IMAGE CONFIG CHECKPOINT``."""

import argparse
from pathlib import Path

import mmcv
from mmengine.config import DictAction

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer import cli
from mmiformer.errors import UserError
from mmiformer.inference import build_model, predict
from mmiformer.visualization import build_visualizer


def main() -> None:
    """Parses the arguments, predicts, and writes the picture."""
    parser = argparse.ArgumentParser(description='Draw what a model sees in an image.')
    parser.add_argument('image', help='image file')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='path or https address of the weights')
    parser.add_argument('--out', help='picture to write (default: IMAGE_prediction.png in this folder)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score to draw (default: 0.3)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
    args = parser.parse_args()
    device = cli.require_device(args.device)
    cfg = cli.load_config(args.config, args.cfg_options)
    out = Path(args.out or f'{Path(args.image).stem}_prediction.png')
    if out.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise UserError(f'{out}: expected a name that ends in .png or .jpg.')

    model = build_model(cfg, args.checkpoint, device)
    sample = predict(model, cfg, args.image)
    visualizer = build_visualizer(cfg, model.dataset_meta)
    visualizer.add_datasample(
        'prediction',
        mmcv.imread(args.image, channel_order='rgb'),
        sample,
        draw_gt=False,
        show=False,
        pred_score_thr=args.score_thr,
        out_file=str(out),
    )
    drawn = int((sample.pred_instances.scores >= args.score_thr).sum())
    print(f'{drawn} objects with a score of at least {args.score_thr}: {out}')


if __name__ == '__main__':
    cli.run(main)
