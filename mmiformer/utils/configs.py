"""Walking through the nested parts of a config."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict


def walk(node: Any, key: str = '') -> Iterator[tuple[str, ConfigDict]]:
    """Every dict in a config with its dotted key, the outer ones first.

    A dict may be changed before the next one is asked for: its children are looked up afterwards.

    Args:
        node: A part of a config.
        key: The part's own key, the start of all others. Defaults to none.
    """
    if isinstance(node, dict):
        yield key, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from walk(child, f'{key}.{name}' if key else str(name))
