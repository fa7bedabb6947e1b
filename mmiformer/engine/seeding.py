"""Random numbers that depend on the seed and the step alone, so that a resumed run repeats them exactly.

mmengine seeds the generators once and does not save their states. Here each training sample and each step has
its own seed, whichever worker loads the sample.
"""

import itertools
import random
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, TRANSFORMS
from mmengine.runner import Runner
from torch.utils.data import Sampler

from mmiformer.datasets.checks import datasets_of


def reseed_each_step(cfg: Config) -> None:
    """Adds seeds for each sample and step to the training of a config; calling it twice is harmless.

    A loader without a sampler keeps torch's order and mmengine's random numbers.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain; it is changed.
    """
    loader = cfg.train_dataloader
    if loader.sampler is not None and loader.sampler.type != 'SeededSampler':
        loader.sampler = ConfigDict(type='SeededSampler', sampler=loader.sampler)
    hooks = list(cfg.get('custom_hooks') or [])
    pipelines = [(dataset, 'pipeline') for dataset in datasets_of(cfg, 'train')]
    pipelines += [(hook, 'switch_pipeline') for hook in hooks]  # Of mmdet's PipelineSwitchHook.
    for part, key in pipelines:
        if part.get(key) and part[key][0].type != 'SeedSample':
            part[key] = [ConfigDict(type='SeedSample'), *part[key]]
    if not any(hook.type == 'SeedStepHook' for hook in hooks):
        cfg.custom_hooks = [*hooks, ConfigDict(type='SeedStepHook')]


class SeededIndex(int):
    """Index of a sample with the seed of its augmentation.

    Wrappers of data sets such as ``RepeatDataset`` compute with indices, which keeps the seed.
    """

    seed: int

    def __new__(cls, index: int, seed: int = 0) -> 'SeededIndex':
        """Makes an index with a seed; unpickling passes the index alone, and sets the seed afterwards."""
        seeded = super().__new__(cls, index)
        seeded.seed = seed
        return seeded

    def __sub__(self, other: int) -> 'SeededIndex':
        return SeededIndex(int(self) - other, self.seed)

    def __mod__(self, other: int) -> 'SeededIndex':
        return SeededIndex(int(self) % other, self.seed)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Wraps a sampler and adds a seed to each index, made of the run's seed, the rank and a running number.

    Args:
        dataset: The data set.
        sampler: Config of the wrapped sampler.
        seed: Seed of the run, set by mmengine's runner. Defaults to the wrapped sampler's.
    """

    def __init__(self, dataset: Sized, sampler: dict[str, Any], seed: int | None = None) -> None:
        self.dataset = dataset  # mmdet's batch sampler by aspect ratio looks for it here.
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.seed = self.sampler.seed if seed is None else seed
        self.epoch = self._skipped = 0
        if isinstance(self.sampler, InfiniteSampler):
            self.skip = self._skip

    def __iter__(self) -> Iterator[SeededIndex]:
        numbered = enumerate(self.sampler, self.epoch * len(self.sampler))
        for number, index in itertools.islice(numbered, self._skipped, None):
            yield SeededIndex(index, _combine(self.seed, get_rank(), number))

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines order and seeds."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def _skip(self, num_samples: int) -> None:
        # OneDL's mmengine calls skip() when it resumes and otherwise loads all batches up to the checkpoint.
        self._skipped = num_samples


@TRANSFORMS.register_module()
class SeedSample(BaseTransform):
    """Seeds the random numbers of Python, numpy and torch for the transforms that follow.

    Samples without a :class:`SeededIndex`, such as the other images of a mosaic, leave them as they are.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Returns ``results`` with a plain ``sample_idx``."""
        index = results.get('sample_idx')
        if isinstance(index, SeededIndex):
            random.seed(index.seed)
            np.random.seed(index.seed)
            torch.default_generator.manual_seed(index.seed)  # Several times faster than torch.manual_seed.
            results['sample_idx'] = int(index)
        return results


@HOOKS.register_module()
class SeedStepHook(Hook):
    """Seeds the random numbers before each step, for mixup, drop path and dropout."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds with the run's seed, the rank and the iteration."""
        seed_step(runner)


def seed_step(runner: Runner) -> None:
    """Seeds Python, numpy and torch for the current iteration of a runner."""
    _seed(_combine(runner.seed, runner.rank, runner.iter, 1))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds Python, numpy and torch for a block, and restores their states afterwards."""
    states = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus):
        _seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _combine(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
