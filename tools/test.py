"""Evaluates a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``."""

import argparse

import torch
from mmengine.runner import Runner

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer import cli
from mmiformer.inference import load_strictly
from mmiformer.memory_format import use_channels_last


def main() -> None:
    """Parses the arguments, fills the model from the checkpoint, and evaluates it."""
    parser = argparse.ArgumentParser(
        description="Evaluate a checkpoint, ours or the authors', on a data set."
    )
    cli.add_runner_arguments(parser)
    parser.add_argument('checkpoint', help='path or https address of the weights')
    args = parser.parse_args()
    cfg = cli.prepare(args, splits=('test',))
    cfg.load_from = None
    cfg.resume = False
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # The checkpoint fills it.

    runner = Runner.from_cfg(cfg)
    load_strictly(runner.model.module if hasattr(runner.model, 'module') else runner.model, args.checkpoint)
    if not torch.cuda.is_available():
        use_channels_last(runner.model)
    runner.test()


if __name__ == '__main__':
    cli.run(main)
