"""Additions to ``mmengine.dist``."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import barrier, get_rank


@contextmanager
def first_process_first() -> Iterator[None]:
    """Runs a block on rank 0 first; the other ranks then find its result, or repeat it on their machine."""
    first = get_rank() == 0
    if not first:
        barrier()
    try:
        yield
    finally:
        if first:
            barrier()
