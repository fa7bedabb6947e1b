import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import IterBasedTrainLoop, Runner

from mmiformer.engine.seeding import SeedStepHook, reseed_each_step


@DATASETS.register_module()
class Twelve(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [dict(number=i) for i in range(12)]


@TRANSFORMS.register_module()
class Draw:
    """Adds what chance gives, of the two generators that augmentations use."""

    def __init__(self, **_) -> None:
        pass

    def __call__(self, results: dict) -> dict:
        return dict(results, numpy=np.random.rand(), torch=float(torch.rand(1)))


def config(sampler: str = 'DefaultSampler', dataset: dict | None = None, workers: int = 0) -> Config:
    loader = dict(
        batch_size=4,
        num_workers=workers,
        persistent_workers=workers > 0,
        sampler=dict(type=sampler, shuffle=True),
        dataset=dataset or dict(type='Twelve', pipeline=[dict(type='Draw')]),
    )
    cfg = Config(dict(train_dataloader=loader))
    reseed_each_step(cfg)
    return cfg


def draws(cfg: Config, epochs: tuple[int, ...] = (0, 1), seed: int = 3) -> list[tuple]:
    loader = Runner.build_dataloader(copy.deepcopy(cfg.train_dataloader), seed=seed)
    found = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        for _, batch in zip(range(3), loader, strict=False):
            found += list(zip(batch['number'], batch['numpy'], batch['torch'], strict=True))
    return found


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_samples_are_augmented_alike_by_any_worker_and_from_any_epoch(sampler):
    alone = draws(config(sampler))
    np.random.seed(99)  # What went before does not matter.
    assert draws(config(sampler)) == alone
    assert draws(config(sampler, workers=2)) == alone
    assert draws(config(sampler), seed=4) != alone
    if sampler == 'DefaultSampler':
        assert draws(config(sampler), epochs=(1,)) == alone[12:], 'begun in the second epoch'
        assert len({d[1] for d in alone}) == len({d[2] for d in alone}) == 24, 'no two alike'


def test_wrapped_data_sets_are_seeded_too():
    inner = dict(type='Twelve', pipeline=[dict(type='Draw')])
    for wrapper in (
        dict(type='RepeatDataset', times=2, dataset=inner),
        dict(type='ConcatDataset', datasets=[inner, inner]),
    ):
        cfg = config(dataset=copy.deepcopy(wrapper))
        assert draws(cfg) == draws(cfg)


def test_done_twice_it_changes_nothing_more():
    cfg = config()
    before = cfg.to_dict()
    reseed_each_step(cfg)
    assert cfg.to_dict() == before


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_a_resumed_loop_passes_over_batches_without_loading_them(sampler, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda _: None)  # mmengine's two seconds between epochs.

    def loop(done: int) -> tuple[IterBasedTrainLoop, SimpleNamespace]:
        loader = Runner.build_dataloader(copy.deepcopy(config(sampler).train_dataloader), seed=3)
        runner = SimpleNamespace(visualizer=SimpleNamespace(), logger=None)
        made = IterBasedTrainLoop(runner, loader, max_iters=9)
        made._iter = done
        runner.train_loop = made
        return made, runner

    whole, _ = loop(0)
    expected = [next(whole.dataloader_iterator) for _ in range(9)]
    for done in (2, 3, 7):
        resumed, runner = loop(done)
        SeedStepHook().before_train(runner)
        batches = resumed.dataloader_iterator
        if hasattr(type(whole.dataloader_iterator), 'skip_iter'):
            batches.skip_iter(done)
        else:
            assert [next(batches) for _ in range(done)] == [None] * done
        assert [next(batches) for _ in range(9 - done)] == expected[done:]
