"""What is found out about a data set."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Splits = tuple[str, ...]
SPLITS: Splits = ('train', 'val')


class Count(NamedTuple):
    """How much of something a split has."""

    split: str
    what: str
    found: int
    official: int


class Finding(NamedTuple):
    """Something amiss, in one sentence that ends with what to do."""

    sentence: str
    harmless: bool  # Whether training runs, and learns what it should, all the same.


class Flaw(NamedTuple):
    """What can be wrong with a file."""

    what: str  # in the plural
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
        """Adds a finding about some files or folders, if there are any: the first few and their number."""
        if names:
            self.tell(f'{what}: {len(names):,} ({first_few(names)}); {remedy}.', harmless)

    @property
    def usable(self) -> bool:
        """Whether the configs can be trained and tested on what was looked at."""
        return all(finding.harmless for finding in self.findings)

    @property
    def complete(self) -> bool:
        """Whether what was looked at is the official data set's, with nothing amiss."""
        return not self.findings and all(count.found == count.official for count in self.counts)

    @property
    def verdict(self) -> str:
        """The upshot, in a few words."""
        if self.complete:
            return 'complete'
        return 'usable, but not the official set' if self.usable else 'not usable'


def first_few(names: Collection[str], number: int = 3) -> str:
    """The first names in alphabetical order, for a sentence."""
    return ', '.join([*sorted(names)[:number], *(['...'] if len(names) > number else [])])
