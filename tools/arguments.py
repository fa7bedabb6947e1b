"""The arguments that training and testing have in common."""

import argparse

from mmengine.config import DictAction


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing have in common."""
    add = parser.add_argument
    add('config', help='config file, e.g. configs/detection/maskrcnn_iformer_m_coco.py')
    add('--work-dir', help='folder for logs, checkpoints and pictures')
    add('--demo', action='store_true', help='use miniature data that is drawn on the spot, without downloads')
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='settings to override in the config, as key=value, e.g. train_dataloader.batch_size=4',
    )
    add('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='distributed launcher')
    # torch.distributed.launch, the predecessor of torchrun, passes the rank on the command line.
    add('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
