"""The result of auditing a data set."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Splits = tuple[str, ...]
SPLITS: Splits = ('train', 'val')


class Count(NamedTuple):
    """How many of something a split has."""

    split: str
    what: str
    found: int
    official: int


class Finding(NamedTuple):
    """A defect, in one sentence that ends with what to do."""

    sentence: str
    harmless: bool  # Training runs and learns the right thing all the same.


class Flaw(NamedTuple):
    """A kind of defect that a file can have."""

    what: str  # In the plural, with {} for the folder.
    remedy: str
    harmless: bool = False


@dataclass
class Audit:
    """Numbers and findings about the data set in a folder.

    Args:
        root: The folder.
    """

    root: Path
    counts: list[Count] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def count(self, split: str, what: str, found: int, official: int) -> None:
        """Adds a number."""
        self.counts.append(Count(split, what, found, official))

    def tell(self, sentence: str, harmless: bool = False) -> None:
        """Adds a finding."""
        self.findings.append(Finding(sentence, harmless))

    def tell_of(self, what: str, names: Collection[str], remedy: str, harmless: bool = False) -> None:
        """Adds a finding about files or folders, if there are any, with the first names and their number."""
        if names:
            self.tell(f'{what}: {len(names):,} ({first_few(names)}); {remedy}.', harmless)

    @property
    def usable(self) -> bool:
        """Whether the configs can be trained and tested on the data."""
        return all(finding.harmless for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The result, in a few words."""
        if not self.findings and all(count.found == count.official for count in self.counts):
            return 'complete'
        return 'usable, but not the official set' if self.usable else 'not usable'


def first_few(names: Collection[str]) -> str:
    """The first three names in alphabetical order, for a sentence."""
    return ', '.join([*sorted(names)[:3], *(['...'] if len(names) > 3 else [])])
