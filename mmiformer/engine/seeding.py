"""Random numbers that depend on seed and step alone, so that a resumed run goes on as if never stopped.

mmengine seeds the generators once and does not save their states. Here every training sample is augmented
with random numbers of its own, whichever worker loads it, and every step begins with its own.
"""

import itertools
import random
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, TRANSFORMS
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmiformer.datasets.checks import datasets_of


def reseed_each_step(cfg: Config) -> None:
    """Seeds every sample and step of a config's training by its number; calling it twice is harmless.

    A loader without a sampler keeps torch's order, and its samples mmengine's random numbers.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain; it is changed.
    """
    loader = cfg.train_dataloader
    if loader.sampler is not None and loader.sampler.type != 'SeededSampler':
        loader.sampler = ConfigDict(type='SeededSampler', sampler=loader.sampler)
    for dataset in datasets_of(cfg, 'train'):
        if dataset.get('pipeline') and dataset.pipeline[0].type != 'SeedSample':
            dataset.pipeline = [ConfigDict(type='SeedSample'), *dataset.pipeline]
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(hook.type == 'SeedStepHook' for hook in hooks):
        cfg.custom_hooks = [*hooks, ConfigDict(type='SeedStepHook')]


class SeededIndex(int):
    """Index of a sample that carries the seed of its augmentation.

    The wrappers of data sets compute with indices; what they subtract or wrap around keeps the seed.
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> 'SeededIndex':
        """Makes an index with a seed."""
        made = super().__new__(cls, index)
        made.seed = seed
        return made

    def __sub__(self, other: int) -> 'SeededIndex':
        return SeededIndex(int(self) - other, self.seed)

    def __mod__(self, other: int) -> 'SeededIndex':
        return SeededIndex(int(self) % other, self.seed)

    def __reduce__(self) -> tuple[type, tuple[int, int]]:
        return SeededIndex, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Another sampler's indices, each with a seed made of the run's, the process's rank, and its number.

    Args:
        dataset: The data set.
        sampler: Config of the other sampler.
        seed: The run's seed, which mmengine's runner gives. Defaults to that of the other sampler.
    """

    def __init__(self, dataset: Sized, sampler: dict[str, Any], seed: int | None = None) -> None:
        self.dataset = dataset
        self._cfg = sampler
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.seed = self.sampler.seed if seed is None else seed
        self.epoch = self._passed = 0

    def __iter__(self) -> Iterator[SeededIndex]:
        numbered = enumerate(self.sampler, self.epoch * len(self.sampler))
        passed, self._passed = self._passed, 0
        for number, index in itertools.islice(numbered, passed, None):
            yield SeededIndex(index, _seed(self.seed, get_rank(), number))

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Sets the pass over the data, which order and seeds depend on."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def start_at(self, epoch: int, passed: int) -> None:
        """Starts the next pass over the data as this epoch, without its first samples."""
        # Anew: InfiniteSampler goes on where a loader's workers left it.
        default = dict(dataset=self.dataset, seed=self.seed)
        self.sampler = DATA_SAMPLERS.build(self._cfg, default_args=default)
        self.set_epoch(epoch)
        self._passed = passed


@TRANSFORMS.register_module()
class SeedSample(BaseTransform):
    """Seeds Python's, numpy's and torch's random numbers for the transforms that follow.

    A sample that came without :class:`SeededIndex`, such as the other pictures of a mosaic, goes on with
    the numbers as they are.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Changes nothing in ``results``."""
        index = results.get('sample_idx')
        if isinstance(index, SeededIndex):
            random.seed(index.seed)
            np.random.seed(index.seed)
            torch.default_generator.manual_seed(index.seed)  # Leaves the GPUs' alone: several times faster.
            results['sample_idx'] = int(index)
        return results


@HOOKS.register_module()
class SeedStepHook(Hook):
    """Seeds Python's, numpy's and torch's random numbers before each step: for mixup, drop path, dropout."""

    def before_train(self, runner: Runner) -> None:
        """Skips the samples that a resumed run has trained on; mmengine may load them first."""
        loop = runner.train_loop
        loader = loop.dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', None)
        skipping = isinstance(loop, IterBasedTrainLoop) and not getattr(loop, 'fast_forward_on_resume', False)
        # Others may order or batch the images in their own way, and are passed over one by one.
        if (
            isinstance(sampler, SeededSampler)
            and isinstance(sampler.sampler, (InfiniteSampler, DefaultSampler))
            and type(loader.batch_sampler) is BatchSampler
            and skipping
            and loop.iter
        ):
            endless = isinstance(sampler.sampler, InfiniteSampler)
            epoch, batches = (0, loop.iter) if endless else divmod(loop.iter, len(loader))
            sampler.start_at(epoch, batches * loader.batch_size)
            loop.dataloader_iterator = _PassedOver(loader, loop.iter, epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds by the run's seed, the process's rank, and the step."""
        seed = _seed(runner.seed, runner.rank, runner.iter, 1)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


class _PassedOver(_InfiniteDataloaderIterator):
    """Batches of a loader that starts behind those which a resumed loop is about to pass over."""

    def __init__(self, loader: DataLoader, passed: int, epoch: int) -> None:
        super().__init__(loader)
        self._epoch = epoch
        self._left = passed

    def skip_iter(self, num_iters: int) -> None:
        """What OneDL's mmengine calls for it; the original one takes the batches one by one."""
        self._left -= num_iters

    def __next__(self) -> Any:
        if self._left:
            self._left -= 1
            return None
        return super().__next__()


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
