"""The result of checking a data set."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mmiformer.utils.errors import UserError, first_few

SPLITS = ('train', 'val')


class Count(NamedTuple):
    """How many items of a kind a split has on disk and in the official data set."""

    split: str
    item: str
    found: int
    official: int


@dataclass
class Audit:
    """What to check of a data set, and the numbers and problems found.

    Args:
        root: Folder of the data set.
        splits: Out of :data:`SPLITS`.
        decode: Whether to decode images, too.
    """

    root: Path
    splits: tuple[str, ...]
    decode: bool
    counts: list[Count] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # They break training, or spoil what it learns.
    notes: list[str] = field(default_factory=list)

    def count(self, split: str, item: str, found: int, official: int) -> None:
        """Adds a number."""
        self.counts.append(Count(split, item, found, official))

    def add_error(self, subject: object, problem: str, remedy: str) -> None:
        """Adds an error."""
        self.errors.append(str(UserError(subject, problem, remedy)))

    def add_files(self, kind: str, names: Collection[str], remedy: str) -> None:
        """Adds an error with number and first names of the files or folders of a kind, if there are any."""
        if names:
            self.add_error(kind, f'{len(names):,} ({first_few(names)})', remedy)

    def add_unused(self, kind: str, names: Collection[str]) -> None:
        """Adds a note about files that training ignores, if there are any."""
        if names:
            self.notes.append(f'{kind}: {len(names):,} ({first_few(names)}); they are not used.')

    @property
    def usable(self) -> bool:
        """Whether the configs can be trained and tested on the data."""
        return not self.errors

    @property
    def verdict(self) -> str:
        """The result, in a few words."""
        if not self.usable:
            return 'not usable'
        official = all(count.found == count.official for count in self.counts)
        return 'complete' if official else 'usable, but not the official set'
