"""Memory that training takes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class SavedBytes:
    """Result of :func:`saved_bytes`; ``bytes`` grows while its block runs."""

    bytes: int = 0


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[SavedBytes]:
    """Counts the bytes that a forward pass in the block stores for the backward pass.

    Tensors that share a storage count once, parameters and buffers of the model not at all. Blocks under
    ``torch.utils.checkpoint`` count with their inputs, which is what they store.

    Args:
        model: The network whose parameters and buffers are left out.
    """
    saved = SavedBytes()
    known = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = []  # Freed in the block, an address could become that of another storage.

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept.append(storage)
            saved.bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
    kept.clear()  # The hooks stay in the graph, and would keep all of it to the end of its backward pass.


def peak_memory() -> int | None:
    """Bytes that this process has used at most: of the GPU if there is one; None on Windows."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_resident_memory()


def peak_resident_memory() -> int | None:
    """The largest resident set of this process so far, in bytes; None on Windows."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        return None
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
