"""Several processes, beyond ``mmengine.dist``."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import barrier, get_rank


@contextmanager
def first_process_first() -> Iterator[None]:
    """Lets rank 0 do something before the others, who find it done, or do it on their own machine."""
    first = get_rank() == 0
    if not first:
        barrier()
    try:
        yield
    finally:
        if first:
            barrier()
