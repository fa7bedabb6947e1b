"""The weight files that the authors of networks released."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """A weight file.

    Attributes:
        url: Where it is downloaded.
        sha256: Reported by a third party, never verified by us. Defaults to None, where nobody did.
    """

    url: str
    sha256: str | None = None

    @property
    def file(self) -> str:
        """Its name."""
        return self.url.rpartition('/')[2]


# Whole models, by the name of their config; a network's own file adds its own.
RELEASED: dict[str, Weights] = {}
