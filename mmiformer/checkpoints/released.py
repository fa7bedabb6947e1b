"""The weight files that the authors of networks released."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """A weight file.

    Attributes:
        url: Its address.
        sha256: As reported by a third party, not verified by us; None if nobody reported one.
    """

    url: str
    sha256: str | None = None

    @property
    def file(self) -> str:
        """Its name."""
        return self.url.rpartition('/')[2]


# Whole models, by the name of their config; the file of a network adds its own.
RELEASED: dict[str, Weights] = {}
