"""Tells whether a data set is whole and where it belongs: ``python tools/check_data.py coco [PATH]``."""

import argparse


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Check before training that a data set is whole, readable and laid out as the configs '
        'expect. Exits with 1 if it is not usable.'
    )
    parser.add_argument('dataset', choices=['coco', 'ade20k', 'imagenet'], help='which data set')
    parser.add_argument(
        'path',
        nargs='?',
        metavar='PATH',
        help='its folder; without one, that of the configs: data/coco, data/ade/ADEChallengeData2016 or '
        'data/imagenet, with $MMIFORMER_DATA in place of data when that is set',
    )
    parser.add_argument(
        '--split',
        choices=['train', 'val'],
        help='look at this one alone, as for tests on val; without it, at both',
    )
    parser.add_argument(
        '--decode', action='store_true', help='decode every pixel, not just header and end of each image'
    )
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from mmiformer.apis import cli
from mmiformer.datasets.audit import SPLITS, audit, default_root
from mmiformer.datasets.audit.report import Audit


def main() -> None:
    """Looks at the data set, and prints numbers, findings and the upshot."""
    args = parse_args()
    root = Path(args.path or default_root(args.dataset))
    found = audit(args.dataset, root, (args.split,) if args.split else SPLITS, args.decode)
    if found.counts:
        Console().print(table_of(found))
    for finding in found.findings:
        print(f'{"note" if finding.harmless else "error"}: {finding.sentence}')
    print(f'{found.root}: {found.verdict}')
    if not found.usable:
        sys.exit(1)


def table_of(found: Audit) -> Table:
    """Numbers beside the official ones, a column for each split."""
    splits = list(dict.fromkeys(count.split for count in found.counts))
    table = Table('', *(Column(split, justify='right') for split in splits))
    for what in dict.fromkeys(count.what for count in found.counts):
        row = {count.split: count for count in found.counts if count.what == what}
        table.add_row(what, *(f'{row[split].found:,} of {row[split].official:,}' for split in splits))
    return table


if __name__ == '__main__':
    cli.run(main)
