"""What the command lines import before they parse their arguments."""

import argparse
import signal
from typing import Any


class ArgumentParser(argparse.ArgumentParser):
    """argparse's; from here on Ctrl-C ends the tool without a traceback, until ``cli.run`` does it.

    The imports that follow take seconds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def add_runner_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments that training and testing have in common."""
    from mmengine.config import DictAction  # Takes seconds, and other tools have their help at once.

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
