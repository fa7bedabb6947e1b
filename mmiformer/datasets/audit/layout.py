"""Finding the folders of a data set, also where they lie by mistake."""

import os
from collections.abc import Iterator, Sequence, Set
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
        # Unlike Path.exists, False for what may not be read, such as lost+found.
        if sum(os.path.exists(folder / entry) for entry in entries) >= 2:
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
    what = 'is a link that leads nowhere' if (audit.root / entry).is_symlink() else 'not found'
    audit.tell(f'{audit.root / entry}: {what}; {remedy}.')


def files_in(
    audit: Audit, entry: str, suffixes: tuple[str, ...], remedy: str, any_case: bool = False
) -> set[str] | None:
    """Names of the files of a kind in a folder of the data set, also in folders below it.

    Args:
        audit: Told of what is wrong.
        entry: Path of the folder in the data set.
        suffixes: What the names end in; in lower case if ``any_case``.
        remedy: What to do if there are none.
        any_case: Whether names may end in them in upper case, too. Defaults to False.

    Returns:
        The names, as paths in the folder, or None if there are none.
    """
    folder = audit.root / entry
    if not folder.is_dir():
        tell_missing(audit, entry, remedy)
        return None
    found, dangling, others = set(), set(), set()
    for name, exists in walk(folder):
        if not (name.lower() if any_case else name).endswith(suffixes):
            others.add(name)
        elif exists:
            found.add(name)
        else:
            dangling.add(name)
    tell_dangling(audit, entry, dangling)
    if found:
        what = f'Files in {entry} that do not end in {" or ".join(suffixes)}'
        audit.tell_of(what, others, 'they are not used', harmless=True)
    elif not dangling:
        what = f'holds none that end in {suffixes[0]}' if others else 'is empty'
        audit.tell(f'{folder}: {what}; {remedy}.')
    return found or None


def tell_dangling(audit: Audit, entry: str, names: Set[str]) -> None:
    """Tells of links in a folder of the data set whose targets are missing."""
    audit.tell_of(f'Links in {entry} that lead nowhere', names, 'bring back what they point to')


def walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """Files in a folder and below, as mmengine lists them: not hidden ones, but those of hidden folders.

    Yields:
        The path in the folder, and whether the file exists; if not, it is a link that leads nowhere.
    """
    waiting = ['']
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(f'{below}{entry.name}/')
                elif not entry.name.startswith('.'):
                    yield f'{below}{entry.name}', not is_dangling(entry)


def is_dangling(entry: os.DirEntry[str]) -> bool:
    """Whether something is a link that leads nowhere."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def in_other_folders(missing: Set[str], unmatched: Set[str]) -> bool:
    """Whether all files that are missing are among others, but in other folders."""
    return bool(missing) and set(map(os.path.basename, missing)) <= set(map(os.path.basename, unmatched))


def visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, as mmengine lists it: without hidden files, but with hidden folders."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.is_dir() or not entry.name.startswith('.')]
