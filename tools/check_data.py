"""Checks a data set before training: ``python tools/check_data.py coco [PATH]``, or ``... MY_DATA``."""

from arguments import ArgumentParser

parser = ArgumentParser(
    description='Check before training that a data set is complete, readable and laid out as the configs '
    'expect, or what tools/new_config.py would read in a folder. Exits with 1 if it is not usable.'
)
add = parser.add_argument
add('dataset', help='coco, ade20k, imagenet, or a folder of your own data')
add(
    'path',
    nargs='?',
    metavar='PATH',
    help='its folder. Defaults to that of the configs: data/coco, data/ade/ADEChallengeData2016 or '
    'data/imagenet, with $MMIFORMER_DATA instead of data if it is set',
)
add('--split', choices=['train', 'val'], help='check this split only. Defaults to both')
add('--decode', action='store_true', help='decode images, not just read header and end')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from mmiformer.apis import cli
from mmiformer.datasets.audit import DATASETS, SPLITS, audit, default_root
from mmiformer.datasets.audit.report import Audit
from mmiformer.datasets.own import read_own_data
from mmiformer.utils.errors import UserError


def main() -> None:
    """Checks the data set, and prints its numbers, problems and the verdict."""
    if args.dataset not in DATASETS:
        if args.path or args.split or args.decode:
            remedy = 'leave them out for own data'
            raise UserError('PATH, --split, --decode', f'are for {", ".join(DATASETS)}', remedy)
        read_own_data(Path(args.dataset)).print()
        return
    root = Path(args.path or default_root(args.dataset))
    found = audit(args.dataset, root, (args.split,) if args.split else SPLITS, args.decode)
    if found.counts:
        Console().print(table_of(found))
    for error in found.errors:
        print(f'error: {error}')
    for note in found.notes:
        print(f'note: {note}')
    print(f'{found.root}: {found.verdict}')
    if not found.usable:
        sys.exit(1)


def table_of(found: Audit) -> Table:
    """Numbers beside the official ones, with a column for each split."""
    splits = list(dict.fromkeys(count.split for count in found.counts))
    table = Table('', *(Column(split, justify='right') for split in splits))
    for item in dict.fromkeys(count.item for count in found.counts):
        row = {count.split: count for count in found.counts if count.item == item}
        table.add_row(item, *(f'{row[split].found:,} of {row[split].official:,}' for split in splits))
    return table


if __name__ == '__main__':
    cli.run(main)
