"""The arguments that training and testing have in common."""

import argparse

from mmengine.config import DictAction


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing have in common."""
    parser.add_argument('config', help='config file, e.g. configs/detection/maskrcnn_iformer_m_coco.py')
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and pictures')
    parser.add_argument(
        '--demo', action='store_true', help='use miniature data that is drawn on the spot, without downloads'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='settings to override in the config, as key=value, e.g. train_dataloader.batch_size=4',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='distributed launcher'
    )
    # torch.distributed.launch, the predecessor of torchrun, passes the rank on the command line.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
