"""Trains a config of any task: ``python tools/train.py CONFIG [--demo]``."""

from arguments import ArgumentParser, add_runner_arguments

parser = ArgumentParser(description='Train a detector, segmentor or classifier.')
add_runner_arguments(parser)
add = parser.add_argument
add(
    '--resume',
    nargs='?',
    const='auto',
    help='continue from a checkpoint; without a name, from the latest one in the work dir',
)
add('--amp', action='store_true', help='mixed precision: float16 on GPUs, bfloat16 on CPUs')
add('--compile', action='store_true', help='torch.compile, for images of one size')
add('--log-to', nargs='+', choices=['tensorboard', 'wandb'], default=[], help='also log there')
add('--auto-scale-lr', action='store_true', help='scale the learning rate to the actual batch size')
add('--val-loss', action='store_true', help='also compute the loss on the validation images')
add('--allow-nan', action='store_true', help='continue after a loss or gradient that is not finite')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import copy
import importlib.util
from contextlib import nullcontext
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process, sync_random_seed
from rich.console import Console

from mmiformer.apis import cli
from mmiformer.engine import prepare_training
from mmiformer.engine.compiling import compile_backbone
from mmiformer.engine.curves import evaluation_table, plot_curves, read_history
from mmiformer.engine.distributed import check_same_length
from mmiformer.engine.first_steps import FirstStepsHook
from mmiformer.engine.predictions import DrawPredictionsHook, draw_training_images
from mmiformer.engine.progress import progress_bar
from mmiformer.engine.record import RecordHook
from mmiformer.engine.resuming import best_checkpoint, file_to_resume, last_checkpoint, resume
from mmiformer.engine.runner import Runner
from mmiformer.ops.layers import describe_operators
from mmiformer.tasks import MAIN_METRICS, METRICS
from mmiformer.utils.cpu import prepare_for_cpu
from mmiformer.utils.errors import UserError, first_line
from mmiformer.utils.files import lock_folder, replacing


def main() -> None:
    """Trains, and draws the curves and some predictions."""
    cfg = cli.prepare(args, splits=('train', 'val'))
    # Two runs in one folder would overwrite each other's files.
    with lock_folder(Path(cfg.work_dir)) if is_main_process() else nullcontext():
        train(cfg)


def train(cfg: Config) -> None:
    """Trains a config in a work dir that no other run uses."""
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        scale_lr(cfg)
    prepare_training(cfg, args.allow_nan)
    if args.val_loss:
        add_val_loss(cfg)
    file = file_to_resume(cfg, args.resume)
    restart = copy.deepcopy(cfg)
    log_to(cfg, args.log_to)  # Not in the config that a resumed run reads.
    if file:
        resume(cfg, file)
    if cfg.get('randomness', {}).get('seed') is None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=sync_random_seed())
    restart.randomness = cfg.randomness
    runner = Runner.from_cfg(cfg)
    if not args.demo:
        warn_of_batch(runner, cfg)
    loader = runner.train_loop.dataloader
    images = len(loader.dataset)
    check_same_length('train_dataloader', images)
    if not len(loader):
        problem = f'{images} images are less than a batch of {loader.batch_size} for each process'
        raise UserError('train_dataloader', problem, 'lower its batch_size, or add images')
    if not torch.cuda.is_available() and not runner.distributed:  # The wrapper of several processes does it.
        prepare_for_cpu(runner.model)
    if args.compile:
        compile_backbone(runner.model.module if runner.distributed else runner.model, dynamic=False)
    runner.logger.info(describe_operators(runner.model))
    work_dir = Path(cfg.work_dir)
    curves, predictions = work_dir / 'curves.png', work_dir / 'predictions.png'
    runner.register_hook(DrawPredictionsHook(predictions))
    runner.register_hook(RecordHook(restart))
    runner.register_hook(FirstStepsHook())
    if is_main_process():
        draw_images(runner, cfg, work_dir / 'training_images.png')
    with progress_bar(runner):
        runner.train()
    if is_main_process():
        best_by = (cfg.default_hooks.get('checkpoint') or {}).get('save_best')
        keys = [best_by, *(METRICS[m].key for m in MAIN_METRICS), 'val_loss']
        history = read_history(work_dir)
        if table := evaluation_table(history, [key for key in keys if isinstance(key, str)]):
            Console().print(table)
        if plot_curves(history, curves):
            print(f'curves       {curves}')
        if predictions.is_file():
            print(f'predictions  {predictions}')
        print(f'checkpoint   {last_checkpoint(work_dir)}')
        if best := best_checkpoint(work_dir):
            config = work_dir / 'config.py'
            print(f'test         {cli.command("test", config, best)}')
            print(f'predict      {cli.command("predict", "IMAGE", work_dir)}')
            print(f'export       {cli.command("export", work_dir, "--to", "onnx")}', flush=True)


def draw_images(runner: Runner, cfg: Config, out: Path) -> None:
    """Draws augmented training images; an error is logged and does not stop the training."""
    try:
        with replacing(out) as part:
            draw_training_images(runner.train_loop.dataloader.dataset, cfg, part)
    except Exception as error:
        runner.logger.warning(f'{out}: no training images drawn ({first_line(error)}).')
    else:
        runner.logger.info(f'Augmented training images are drawn in {out}')


def use_amp(cfg: Config) -> None:
    """Makes a config train in mixed precision."""
    if get_device() == 'mps':
        raise UserError('--amp', "mmengine has none for Apple's GPUs", 'remove it')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if get_device() == 'cpu':
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # Of AmpOptimWrapper alone.
            cfg.optim_wrapper.pop(key, None)


def log_to(cfg: Config, services: list[str]) -> None:
    """Adds mmengine's back-ends of TensorBoard and Weights & Biases to a config."""
    for name in services:
        if importlib.util.find_spec(name) is None:
            raise UserError(f'--log-to {name}', f'{name} is not installed', f'pip install {name}')
        backend = dict(type=f'{name.capitalize()}VisBackend')
        cfg.visualizer.vis_backends = [*(cfg.visualizer.get('vis_backends') or []), backend]


def add_val_loss(cfg: Config) -> None:
    """Adds the loss on the validation images to the evaluations of a config."""
    if not cfg.get('val_dataloader'):
        raise UserError('--val-loss', f'{args.config} has no val_dataloader', 'add one, or remove it')
    cfg.default_hooks.val_loss = dict(type='ValidationLossHook')


def scale_lr(cfg: Config) -> None:
    """Makes mmengine scale the learning rate of a config to the actual batch."""
    scaling = cfg.get('auto_scale_lr')
    if scaling is None:
        problem = f'{args.config} has no auto_scale_lr'
        raise UserError('--auto-scale-lr', problem, 'add one with its base_batch_size')
    if not scaling.get('enable'):  # As in the config.py of such a run.
        scaling.enable = True
        # mmengine does not count the batches whose gradients are accumulated.
        scaling.base_batch_size /= cfg.optim_wrapper.get('accumulative_counts', 1)


def warn_of_batch(runner: Runner, cfg: Config) -> None:
    """Warns if the learning rate is for another batch than the run's."""
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    steps = cfg.optim_wrapper.get('accumulative_counts', 1)
    batch = runner.world_size * cfg.train_dataloader.batch_size * steps
    if base and batch != base and not scaling.get('enable'):
        runner.logger.warning(
            f"The config's learning rate is for a batch of {base}, this run has {batch}: add "
            '--auto-scale-lr, or set the rate yourself.'
        )


if __name__ == '__main__':
    cli.run(
        main,
        'lower train_dataloader.batch_size and raise optim_wrapper.accumulative_counts in proportion, set '
        'model.backbone.with_cp=True, or train with smaller images',
    )
