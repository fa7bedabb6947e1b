"""Trains a config of any task: ``python tools/train.py CONFIG [--demo]``."""

import argparse

from runner_arguments import add_runner_arguments


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Train a detector, segmentor or classifier.')
    add_runner_arguments(parser)
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
    parser.add_argument(
        '--allow-nan', action='store_true', help='go on after a loss or gradient that is not finite'
    )
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

import copy
from contextlib import nullcontext
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process, sync_random_seed
from torch import nn

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer.apis import cli
from mmiformer.engine import prepare_training
from mmiformer.engine.curves import plot_curves
from mmiformer.engine.distributed import check_same_length, warn_of_other_batch
from mmiformer.engine.predictions import DrawPredictionsHook
from mmiformer.engine.record import write_record
from mmiformer.engine.resuming import check_same_model, file_to_resume, last_checkpoint, resume
from mmiformer.engine.runner import Runner
from mmiformer.ops.layers import describe_operators
from mmiformer.utils.configs import walk
from mmiformer.utils.cpu import prepare_for_cpu
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write, lock_folder

PREDICTIONS = 'predictions.png'


def main() -> None:
    """Trains, and draws the curves and some predictions."""
    args = parse_args()
    cfg = cli.prepare(args, splits=('train', 'val'))
    # Two runs in one folder would overwrite each other's files.
    with lock_folder(Path(cfg.work_dir)) if is_main_process() else nullcontext():
        train(args, cfg)


def train(args: argparse.Namespace, cfg: Config) -> None:
    """Trains a config whose work dir is this run's alone."""
    if args.amp:
        cli.require_device('cuda', ', or leave --amp away, since mmengine has it for GPUs only')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise UserError(f'--auto-scale-lr: {args.config} has no auto_scale_lr with its base_batch_size.')
        if not cfg.auto_scale_lr.get('enable'):  # As in the config.py of such a run.
            cfg.auto_scale_lr.enable = True
            # mmengine does not count the batches that a step adds up.
            cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.get('accumulative_counts', 1)

    prepare_training(cfg, args.allow_nan)
    file = file_to_resume(cfg, args.resume)
    anew = copy.deepcopy(cfg)
    checkpoint = resume(cfg, file) if file else None
    if cfg.get('randomness', {}).get('seed') is None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=sync_random_seed())
    anew.randomness = cfg.randomness
    runner = Runner.from_cfg(cfg)
    say_norm(runner, cfg)
    if not args.demo:
        say_batch(runner, cfg)
    loader = runner.train_loop.dataloader
    check_same_length('train_dataloader', len(loader.dataset))
    if runner.val_loop is not None:
        check_same_length('val_dataloader', len(runner.val_loop.dataloader.dataset))
    if not len(loader):
        raise UserError(
            'train_dataloader',
            f'{len(loader.dataset)} images are less than a batch of {loader.batch_size} for each process',
            'lower its batch_size, or add images',
        )
    if checkpoint is not None:
        check_same_model(runner, checkpoint, cfg.load_from)
        warn_of_other_batch(checkpoint['meta'], cfg)
        runner.to_resume = checkpoint
        del checkpoint
    if not torch.cuda.is_available() and not runner.distributed:  # Several processes' wrapper did it before.
        prepare_for_cpu(runner.model)
    runner.logger.info(describe_operators(runner.model))
    runner.register_hook(DrawPredictionsHook(Path(cfg.work_dir, PREDICTIONS)))
    if is_main_process():
        # Now, since mmengine may have written its copy of a config.py there, which says that it resumes.
        atomic_write(Path(cfg.work_dir, 'config.py'), anew.pretty_text)
        write_record(cfg, Path(runner.log_dir))
    runner.train()
    if is_main_process():
        report(runner, cfg)


def say_norm(runner: Runner, cfg: Config) -> None:
    """Logs what became of a config's SyncBN, which is made BN on a CPU and where one process trains."""
    if any(part.get('type') == 'SyncBN' for _, part in walk(cfg.model)):
        if any(isinstance(module, nn.SyncBatchNorm) for module in runner.model.modules()):
            became = f'SyncBN over {runner.world_size} processes'
        elif runner.distributed:
            became = 'BN, each process for itself, since SyncBN needs GPUs'
        else:
            became = 'BN, since one process trains and SyncBN needs several GPUs'
        runner.logger.info(f'Normalisation of the heads: {became}.')


def say_batch(runner: Runner, cfg: Config) -> None:
    """Warns where the learning rate is that of another batch than the run's."""
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    steps = cfg.optim_wrapper.get('accumulative_counts', 1)
    batch = runner.world_size * cfg.train_dataloader.batch_size * steps
    if base and batch != base and not scaling.get('enable'):
        runner.logger.warning(
            f"The config's learning rate is for a batch of {base}, this run has {batch}: add "
            '--auto-scale-lr, or set the rate yourself.'
        )


def report(runner: Runner, cfg: Config) -> None:
    """Draws the curves into the work dir and says where they, the predictions and the weights are."""
    work_dir = Path(cfg.work_dir)
    curves, predictions = work_dir / 'curves.png', work_dir / PREDICTIONS
    written = [f'curves       {curves}'] if plot_curves(work_dir, curves) else []
    if predictions.is_file():
        written.append(f'predictions  {predictions}')
    if last := last_checkpoint(work_dir):
        written.append(f'checkpoint   {last}')
    print('\n'.join(written), flush=True)


if __name__ == '__main__':
    cli.run(main)
