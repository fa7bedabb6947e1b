"""What tests/test_soak.py has a process of its own do: predict, or train, and note its memory.

As a script: ``soaking.py predict|train CONFIG NUMBER OUT``, number of images or of epochs. The miniature data
is made in the current folder; resident bytes after each image or step go into the JSON file OUT.
"""

import json
import os
import sys
from collections.abc import Iterable
from multiprocessing import active_children
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from helpers import trained_looking
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import Progress

from mmiformer.apis.cli import load_config
from mmiformer.apis.inference import build_model, optimize_for_inference, predict
from mmiformer.engine import prepare_training
from mmiformer.tasks import task_of
from mmiformer.utils.configs import walk

SIDE = 320  # Pixels of an image's longer side in the network.
SHORTEST, LONGEST = 64, 640  # Pixels of an image file's sides.
OBJECTS, PROPOSALS = 5, 50  # Of an image.


class MemoryHook(Hook):
    """Notes after each step what this process and its training workers hold, and shows how far they are."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.used, self.processes = progress, [], []

    def before_train(self, runner: Runner) -> None:
        self.task = self.progress.add_task('training', total=runner.max_iters)

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        if not self.processes:  # Workers of the validation come later.
            self.processes = [os.getpid(), *(child.pid for child in active_children())]
        self.used.append(resident(self.processes))
        self.progress.advance(self.task)


def resident(processes: Iterable[int]) -> int:
    """Resident bytes of processes, what several of them share counted for each."""
    page = os.sysconf('SC_PAGE_SIZE')
    return sum(int(Path(f'/proc/{process}/statm').read_text().split()[1]) * page for process in processes)


def soak_predictions(cfg: Config, number: int, out: Path, progress: Progress) -> list[int]:
    """Predicts on images of random sizes as tools/predict.py does."""
    for _, part in walk([cfg.test_dataloader, cfg.model.get('test_cfg')]):
        if part.get('type') == 'Resize':
            part.scale = (SIDE, SIDE)
        if 'max_per_img' in part:
            part.max_per_img = PROPOSALS if 'min_bbox_size' in part else OBJECTS
    model = optimize_for_inference(trained_looking(build_model(cfg, None)))
    painter = task_of(cfg).painter(cfg, model.dataset_meta, score_thr=0)
    sources = sorted(Path(cfg.test_dataloader.dataset.data_root).rglob('*.[jJ][pP]*'))[:50]
    file, picture = out.with_suffix('.jpg'), out.with_suffix('.png')
    random = np.random.default_rng(0)
    used = []
    for i in progress.track(range(number), description=f'predicting with {type(model).__name__}'):
        size = random.integers(SHORTEST, LONGEST, 2, endpoint=True).tolist()
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(sources[i % len(sources)])), size))
        sample = predict(model, cfg, file)
        assert len(sample.get('pred_instances', [None])), 'an untrained detector finds something everywhere'
        painter.save(mmcv.imread(file, channel_order='rgb'), sample, picture)
        used.append(resident([os.getpid()]))
    return used


def soak_training(cfg: Config, by_epoch: bool, epochs: int, out: Path, progress: Progress) -> list[int]:
    """Trains some epochs, or as many images counted by iterations, with workers that persist."""
    for name in ('train', 'val'):
        cfg[f'{name}_dataloader'].update(num_workers=2, persistent_workers=True)
    cfg.train_dataloader.batch_size = 4
    if by_epoch:
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, max_keep_ckpts=2)
        cfg.log_processor.by_epoch = True
    cfg.work_dir = str(out.with_suffix(''))
    prepare_training(cfg)
    runner = Runner.from_cfg(cfg)
    loop = runner.train_loop
    if not by_epoch:
        loop._max_iters = epochs * len(loop.dataloader.dataset) // cfg.train_dataloader.batch_size
        loop.val_interval = loop._max_iters // epochs
    hook = MemoryHook(progress)
    runner.register_hook(hook)
    runner.train()
    return hook.used


def main() -> None:
    kind, config, number, out = sys.argv[1:]
    torch.manual_seed(0)
    by_epoch = 'max_epochs' in load_config(config).train_cfg
    cfg = load_config(config, demo=True)
    with Progress(console=Console(stderr=True)) as progress:
        if kind == 'predict':
            used = soak_predictions(cfg, int(number), Path(out), progress)
        else:
            used = soak_training(cfg, by_epoch, int(number), Path(out), progress)
    Path(out).write_text(json.dumps(used))


if __name__ == '__main__':
    main()
