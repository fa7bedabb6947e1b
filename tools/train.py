"""Trains a config of any task: ``python tools/train.py CONFIG [--demo]``."""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner, find_latest_checkpoint

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer import cli
from mmiformer.checkpoints import MisfitError, read
from mmiformer.errors import UserError
from mmiformer.memory_format import use_channels_last
from mmiformer.visualization import draw_predictions, plot_curves


def main() -> None:
    """Parses the arguments, trains, and draws the curves and some predictions."""
    parser = argparse.ArgumentParser(description='Train a detector, segmentor or classifier.')
    cli.add_runner_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from a checkpoint; without a name, from the latest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (needs a GPU)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the actual batch size'
    )
    args = parser.parse_args()
    cfg = cli.prepare(args, splits=('train', 'val'))
    if args.resume:
        resume(cfg, args.resume)
    if args.amp:
        cli.require_device('cuda', ', or leave --amp away, since mmengine has it for GPUs only')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if args.auto_scale_lr:
        cfg.auto_scale_lr.enable = True

    runner = Runner.from_cfg(cfg)
    if not torch.cuda.is_available():
        use_channels_last(runner.model)
    try:
        runner.train()
    except MisfitError as error:
        raise UserError(f'{cfg.load_from or cfg.work_dir}: {error}') from None
    if is_main_process():
        report(runner, cfg)


def resume(cfg: Config, file: str) -> None:
    """Sets a config to go on from a training checkpoint, or from the latest one with ``'auto'``."""
    if file == 'auto':
        latest = find_latest_checkpoint(cfg.work_dir) if Path(cfg.work_dir).is_dir() else None
        if latest is None:
            print(f'--resume: no checkpoint in {cfg.work_dir} yet, starting from the beginning.', flush=True)
            return
        file = latest
    checkpoint = read(file)
    if not isinstance(checkpoint, dict) or not {'optimizer', 'message_hub', 'meta'} <= checkpoint.keys():
        raise UserError(f'{file}: holds weights only; start from them with --cfg-options load_from={file}.')
    cfg.resume = True
    cfg.load_from = file


def report(runner: Runner, cfg: Config) -> None:
    """Draws what the run did into its work dir and says where."""
    work_dir = Path(cfg.work_dir)
    curves, pictures = work_dir / 'curves.png', work_dir / 'predictions.png'
    written = [f'curves       {curves}'] if plot_curves(work_dir, curves) else []
    if runner.val_loop is not None:
        draw_predictions(runner.model, runner.val_dataloader.dataset, cfg, pictures)
        written.append(f'predictions  {pictures}')
    last = work_dir / 'last_checkpoint'
    if last.exists():
        written.append(f'checkpoint   {last.read_text().strip()}')
    print('\n'.join(written), flush=True)


if __name__ == '__main__':
    cli.run(main)
