"""Finding the folders and files of a data set, also where they lie by mistake."""

import os
from collections.abc import Iterator, Sequence, Set
from itertools import chain
from pathlib import Path

from mmiformer.datasets.audit.report import Audit


def check_root(audit: Audit, entries: Sequence[str], remedy: str) -> bool:
    """Whether the audited folder holds any of a data set's ``entries``; if not, adds a finding.

    It names the folder nearby that holds two of them, else the ``remedy``.
    """
    root, wanted = audit.root, ', '.join(entries)
    if any((root / entry).exists() for entry in entries):
        return True
    above = root.absolute().parents[:2]
    below = chain.from_iterable(sorted(root.glob('/'.join('*' * depth))) for depth in (1, 2, 3))
    for folder in chain(above, below):
        # Unlike Path.exists, os.path.exists is False for what may not be read, such as lost+found.
        if sum(os.path.exists(folder / entry) for entry in entries) >= 2:
            what = f'holds none of {wanted}, but {folder} does'
            remedy = (
                f'give that as PATH or, for the configs to find it in {root}, move its content up to there'
            )
            if folder in above:
                what, remedy = 'lies inside of the data set', f'give {folder} as PATH'
            break
    else:
        what = f'holds none of {wanted}' if any(root.iterdir()) else 'is an empty folder'
    audit.tell(f'{root}: {what}; {remedy}.')
    return False


def tell_missing(audit: Audit, entry: str, remedy: str) -> None:
    """Adds a finding that a file or folder is missing; names the one of its name nearby, else the remedy."""
    # An annotation file is known by its name alone; folders like `training` are not.
    name = Path(entry).name if Path(entry).suffix else entry
    elsewhere = next(chain.from_iterable(audit.root.glob(top + name) for top in ('', '*/', '*/*/')), None)
    if elsewhere:
        remedy = f'{elsewhere} is there, move it to where it belongs'
    what = 'is a link that leads nowhere' if (audit.root / entry).is_symlink() else 'not found'
    audit.tell(f'{audit.root / entry}: {what}; {remedy}.')


def files_in(
    audit: Audit, entry: str, suffixes: tuple[str, ...], remedy: str, any_case: bool = False
) -> set[str]:
    """Lists the files of a kind in a folder of the data set and below.

    Args:
        audit: Of the data set; gets a finding if there are none, or others.
        entry: Path of the folder in the data set.
        suffixes: What the names end in; in lower case if ``any_case``.
        remedy: What to do if there are none.
        any_case: Whether the suffixes may be in upper case, too. Defaults to False.

    Returns:
        The names, as paths in the folder.
    """
    folder = audit.root / entry
    if not folder.is_dir():
        tell_missing(audit, entry, remedy)
        return set()
    names = set(walk(folder))
    found = {name for name in names if (name.lower() if any_case else name).endswith(suffixes)}
    if found:
        what = f'Files in {entry} that do not end in {" or ".join(suffixes)}'
        audit.tell_of(what, names - found, 'they are not used', harmless=True)
    else:
        audit.tell(f'{folder}: {f"holds none that end in {suffixes[0]}" if names else "is empty"}; {remedy}.')
    return found


def walk(folder: Path, below: str = '') -> Iterator[str]:
    """Lists files in a folder and below as mmengine does: no hidden files, but those of hidden folders.

    Yields:
        Paths in the folder, also of links that lead nowhere.
    """
    for entry in os.scandir(folder / below):
        if entry.is_dir():
            yield from walk(folder, f'{below}{entry.name}/')
        elif not entry.name.startswith('.'):
            yield f'{below}{entry.name}'


def in_other_folders(missing: Set[str], unmatched: Set[str]) -> bool:
    """Whether all files that are missing are among others, but in other folders."""
    return bool(missing) and set(map(os.path.basename, missing)) <= set(map(os.path.basename, unmatched))
