"""Finding the folders of a data set, also where they lie by mistake."""

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from mmiformer.datasets.audit.report import Audit


def check_root(audit: Audit, entries: Sequence[str], remedy: str) -> bool:
    """Whether a folder holds any entry of a data set; tells where the data set is if not.

    Args:
        audit: Told of what is wrong.
        entries: Paths of the folders that the data set consists of; two of them tell that it is there.
        remedy: What to do where it is not found nearby.
    """
    root = audit.root
    if any((root / entry).exists() for entry in entries):
        return True
    wanted = ', '.join(entries)
    above = root.absolute().parents[:2]
    below = chain.from_iterable(sorted(root.glob('/'.join('*' * depth))) for depth in (1, 2, 3))
    for folder in chain(above, below):
        if sum((folder / entry).exists() for entry in entries) >= 2:
            if folder in above:
                audit.tell(f'{root}: lies inside of the data set; give {folder} as PATH.')
            else:
                audit.tell(
                    f'{root}: holds none of {wanted}, but {folder} does; give that as PATH or, where the '
                    f'configs are to find it in {root}, move its content up to there.'
                )
            return False
    what = f'holds none of {wanted}' if any(root.iterdir()) else 'is an empty folder'
    audit.tell(f'{root}: {what}; {remedy}.')
    return False


def tell_missing(audit: Audit, entry: str, remedy: str) -> None:
    """Tells that an entry of the data set is missing, and where it lies instead.

    Args:
        audit: Told of what is wrong.
        entry: Path of a file or folder in the data set.
        remedy: What to do where it is not found nearby.
    """
    # An annotation file is known by its name alone; folders like `training` are not.
    name = Path(entry).name if Path(entry).suffix else entry
    elsewhere = next(chain.from_iterable(audit.root.glob(top + name) for top in ('', '*/', '*/*/')), None)
    if elsewhere:
        remedy = f'{elsewhere} is there, move it to where it belongs'
    audit.tell(f'{audit.root / entry}: not found; {remedy}.')


def files_in(audit: Audit, entry: str, suffixes: tuple[str, ...], remedy: str) -> set[str] | None:
    """Names of the files of a kind in a folder of the data set.

    Args:
        audit: Told of what is wrong.
        entry: Path of the folder in the data set.
        suffixes: What the names end in.
        remedy: What to do if there are none.

    Returns:
        The names, or None if there are none.
    """
    folder = audit.root / entry
    if not folder.is_dir():
        tell_missing(audit, entry, remedy)
        return None
    inside = visible(folder)
    found = {file.name for file in inside if file.name.endswith(suffixes) and file.is_file()}
    if found:
        rest = {file.name for file in inside} - found
        what = f'Entries of {entry} that do not end in {" or ".join(suffixes)}'
        audit.tell_of(what, rest, 'they are not used', harmless=True)
        return found
    for subfolder in sorted(file.path for file in inside if file.is_dir()):
        if any(file.name.endswith(suffixes) for file in visible(subfolder)):
            audit.tell(f'{folder}: its files lie one folder too deep, in {subfolder}; move them up.')
            return None
    audit.tell(f'{folder}: {"holds none that end in " + suffixes[0] if inside else "is empty"}; {remedy}.')
    return None


def visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, without hidden files."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith('.')]
