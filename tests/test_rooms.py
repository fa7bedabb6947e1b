"""The rooms of the package: who may import whom, and where the room of a name is."""

import ast
from pathlib import Path

import mmiformer

PACKAGE = Path(mmiformer.__file__).parent
# From the ground up: a room imports those before it alone, but for imports inside of functions.
ROOMS = (
    *('utils', 'ops', 'tasks', 'checkpoints', 'models', 'datasets', 'engine', 'deploy', 'apis'),
    *('benchmark', 'zoo'),
)


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        names = [node.module or ''] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split('.')[1] for name in names if name.startswith('mmiformer.')}
    return found


def test_no_room_imports_one_above_it():
    for file in PACKAGE.rglob('*.py'):
        room, *rest = file.relative_to(PACKAGE).parts
        if rest and room != '.mim':
            above = imports_of(file).difference(ROOMS[: ROOMS.index(room) + 1])
            assert not above, f'{file}: imports {", ".join(above)}'


def test_no_loose_files():
    assert {file.name for file in PACKAGE.glob('*.py')} == {'__init__.py', '__main__.py'}
