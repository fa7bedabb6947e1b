"""Markdown tables."""

from collections.abc import Sequence
from typing import Any


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of rows with the same keys, which become the heads; None becomes a dash."""
    heads = list(rows[0])
    lines = [heads, ['---'] * len(heads), *(['-' if c is None else str(c) for c in r.values()] for r in rows)]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
