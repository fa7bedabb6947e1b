"""Processes that load data."""

import os
import threading
import time

from mmengine.config import Config
from mmengine.registry import FUNCTIONS


def leave_no_workers(cfg: Config, splits: tuple[str, ...]) -> None:
    """Has a config's data workers end when their run is killed.

    torch's own look after their parent as well, but one that waits to hand over its last batch stays on.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain; it is changed.
        splits: Of the data loaders, out of ``train``, ``val``, ``test``.
    """
    for split in splits:
        if loader := cfg.get(f'{split}_dataloader'):
            loader.setdefault('worker_init_fn', dict(type='end_with_parent'))


@FUNCTIONS.register_module()
def end_with_parent(worker_id: int) -> None:
    """Ends this data worker within a second of its parent; torch has seeded it before."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
