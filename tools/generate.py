"""Writes the configs of peers, metafiles and tables in pages: ``python tools/generate.py [--check]``."""

from arguments import ArgumentParser

parser = ArgumentParser(
    description='Write the files that are generated from the published figures and the zoo.'
)
parser.add_argument('--check', action='store_true', help='only check that the files are up to date')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

from pathlib import Path

from mmiformer.apis import cli
from mmiformer.utils.errors import UserError
from mmiformer.zoo.generating import generate

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Writes or checks the files."""
    files = {file: text.encode() for file, text in generate(ROOT).items()}
    changed = [file for file, data in files.items() if not file.is_file() or file.read_bytes() != data]
    if args.check and changed:
        names = ', '.join(str(file.relative_to(ROOT)) for file in changed)
        raise UserError(names, 'differs from what is generated', 'run python tools/generate.py')
    for file in changed:
        file.write_bytes(files[file])
        print(f'written: {file.relative_to(ROOT)}')
    print(f'{len(files)} files are up to date')


if __name__ == '__main__':
    cli.run(main)
