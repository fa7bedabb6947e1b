"""Tables of pages."""

from collections.abc import Iterable
from typing import Any


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown, a line for each row; None is a dash."""
    heads = list(heads)
    lines = [heads, ['---'] * len(heads), *(['-' if c is None else str(c) for c in row] for row in rows)]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
