"""The form of a published accuracy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """The accuracy that somebody published of a network.

    Attributes:
        name: Of the network: ours, or timm's.
        family: What the network is a size of.
        value: In percent; None where none is known.
        source: Paper, or table and weights.
        distilled: Whether the network was trained with a teacher. Defaults to False.
        size: Side of the test images in pixels, where all are squares of it. Defaults to 224.
    """

    name: str
    family: str
    value: float | None
    source: str
    distilled: bool = False
    size: int | None = 224
