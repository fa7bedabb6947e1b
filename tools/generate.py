"""Writes peers' configs, metafiles and the tables of pages: ``python tools/generate.py [--check]``."""

import argparse


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Write what is made from mmiformer/zoo/published and mmiformer/zoo.'
    )
    parser.add_argument('--check', action='store_true', help='only say whether the files are up to date')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

from pathlib import Path

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer.apis import cli
from mmiformer.utils.errors import UserError
from mmiformer.zoo.generating import generate

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """And writes or compares."""
    args = parse_args()
    files = generate(ROOT)
    changed = [
        file
        for file, text in files.items()
        if not file.is_file() or file.read_bytes() != text.encode('utf-8')
    ]
    if args.check and changed:
        names = ', '.join(str(file.relative_to(ROOT)) for file in changed)
        raise UserError(names, 'not as made from mmiformer/zoo/published', 'run python tools/generate.py')
    for file in changed:
        file.write_bytes(files[file].encode('utf-8'))
        print(f'written: {file.relative_to(ROOT)}')
    print(f'{len(files)} files are up to date')


if __name__ == '__main__':
    cli.run(main)
