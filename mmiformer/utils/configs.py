"""Iteration over the nested parts of a config, and their types."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict


def walk(node: Any, key: str = '') -> Iterator[tuple[str, ConfigDict]]:
    """Yields every dict in a config with its dotted key, outer ones first.

    Callers may change a dict before they continue: its children are looked up afterwards.

    Args:
        node: A part of a config.
        key: The key of that part. Defaults to ''.
    """
    if isinstance(node, dict):
        yield key, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from walk(child, f'{key}.{name}' if key else str(name))


def kind_of(part: ConfigDict) -> str:
    """The type of a part of a config, without its package."""
    return str(part.type).rpartition('.')[2]
