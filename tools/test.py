"""Evaluates a checkpoint or an exported file: ``python tools/test.py CONFIG CHECKPOINT``."""

from arguments import ArgumentParser, add_runner_arguments

parser = ArgumentParser(description='Evaluate a checkpoint or an exported file on a data set.')
add_runner_arguments(parser)
add = parser.add_argument
add('checkpoint', help='path or https address of the weights; or a file of tools/export.py')
add('--tta', action='store_true', help="average over the scales and flips of the config's tta_pipeline")
add('--compile', action='store_true', help='compile the backbone with torch.compile')
add('--limit', type=int, metavar='N', help='evaluate on the first N images only')
add('--out', help='JSON to write: metrics, number of images, seconds, versions, machine')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import json
import time
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper

from mmiformer.apis import cli
from mmiformer.apis.inference import FilePredictor, PredictorModel, optimize_for_inference
from mmiformer.checkpoints import load_weights
from mmiformer.datasets.checks import datasets_of, limit_images
from mmiformer.deploy.fitting import keep_images
from mmiformer.deploy.runtimes import runtime_of
from mmiformer.engine.distributed import check_same_length
from mmiformer.engine.progress import progress_bar
from mmiformer.engine.runner import Runner
from mmiformer.ops.layers import describe_operators
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write
from mmiformer.utils.machine import MODULES, describe_machine


def main() -> None:
    """Loads the checkpoint and evaluates it."""
    cfg = cli.prepare(args, splits=('test',))
    predictor = None
    if runtime_of(args.checkpoint):
        if args.tta or args.compile:
            raise UserError(args.checkpoint, 'an exported file runs as it is', 'remove --tta and --compile')
        predictor = FilePredictor(args.checkpoint, cfg)
        keep_images(cfg)
        cfg.custom_hooks = []  # They are for training: EMAHook copies the model.
    if args.limit is not None:
        limit_images(cfg, args.limit)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    cfg.load_from = None
    cfg.resume = False
    if not is_main_process():  # With mmengine every process writes the metrics, to the same file.
        cfg.default_hooks.logger = None
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # The checkpoint fills it.
    if args.tta:
        if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
            problem = f'{args.config} has no tta_model and tta_pipeline, as the segmentation configs have'
            raise UserError('--tta', problem, 'remove --tta')
        for dataset in datasets_of(cfg, 'test'):
            dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(cfg.tta_model, module=cfg.model)

    runner = Runner.from_cfg(cfg)
    model = runner.model
    while hasattr(model, 'module'):  # Wrappers of several processes and of test-time augmentation.
        model = model.module
    if predictor:
        runner.model = PredictorModel(predictor)
    else:
        load_weights(model, args.checkpoint)
        # Without the wrapper of several processes, which only averages gradients.
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = optimize_for_inference(model, args.compile)
        runner.logger.info(describe_operators(runner.model))
    check_same_length('test_dataloader', len(runner.test_dataloader.dataset))
    start = time.perf_counter()
    with progress_bar(runner):
        metrics = runner.test()
    if args.out and is_main_process():
        images, seconds = len(runner.test_dataloader.dataset), time.perf_counter() - start
        result = dict(metrics=metrics, images=images, seconds=seconds, machine=describe_machine(MODULES))
        atomic_write(Path(args.out), json.dumps(result, indent=2, default=float) + '\n')


if __name__ == '__main__':
    cli.run(main)
