import copy
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, HOOKS, TRANSFORMS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator

from mmiformer.datasets.toy.coco import TOY_DATA
from mmiformer.engine.seeding import reseed_each_step
from mmiformer.tasks.detection import Detection


@DATASETS.register_module()
class Twelve(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [dict(number=i) for i in range(12)]


@TRANSFORMS.register_module()
class Draw:
    """Adds random numbers of the two generators that augmentations use."""

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
def test_augmentation_does_not_depend_on_workers_or_earlier_epochs(sampler):
    expected = draws(config(sampler))
    np.random.seed(99)  # Must not matter.
    assert draws(config(sampler)) == expected
    assert draws(config(sampler, workers=2)) == expected
    assert draws(config(sampler), seed=4) != expected
    if sampler == 'DefaultSampler':
        assert draws(config(sampler), epochs=(1,)) == expected[12:], 'started in the second epoch'
        assert len({d[1] for d in expected}) == len({d[2] for d in expected}) == 24, 'all are different'


def test_wrapped_data_sets_are_seeded_too():
    inner = dict(type='Twelve', pipeline=[dict(type='Draw')])
    for wrapper in (
        dict(type='RepeatDataset', times=2, dataset=inner),
        dict(type='ConcatDataset', datasets=[inner, inner]),
    ):
        cfg = config(dataset=copy.deepcopy(wrapper))
        assert draws(cfg) == draws(cfg)


def test_a_second_call_changes_nothing():
    cfg = config()
    before = cfg.to_dict()
    reseed_each_step(cfg)
    assert cfg.to_dict() == before


def test_onedls_mmengine_skips_batches_without_loading_them(monkeypatch):
    def iterator() -> _InfiniteDataloaderIterator:
        loader = Runner.build_dataloader(copy.deepcopy(config('InfiniteSampler').train_dataloader), seed=3)
        return _InfiniteDataloaderIterator(loader)

    if not hasattr(_InfiniteDataloaderIterator, 'skip_iter'):
        pytest.skip("the original line's mmengine loads them")
    batches = iterator()
    expected = [next(batches) for _ in range(9)]
    for done in (2, 7):
        resumed = iterator()
        with monkeypatch.context() as patch:
            patch.setattr(Twelve, 'prepare_data', None)  # Loads an image.
            resumed.skip_iter(done)
        assert [next(resumed) for _ in range(9 - done)] == expected[done:]


def test_an_epoch_with_mosaics_does_not_depend_on_those_before(root, at_work):
    """Nor does the one after mmdet's PipelineSwitchHook has replaced the pipeline."""
    cfg = Config.fromfile(root / 'configs/detection/rtmdet_iformer_t_coco.py')
    loader, hook = cfg.train_dataloader, cfg.custom_hooks[1]
    loader.dataset.update(Detection().toy_dataset(TOY_DATA.make(Path('data/demo/coco')), training=True))
    loader.dataset.update(metainfo=dict(classes=TOY_DATA.classes), indices=8)
    loader.update(batch_size=8, num_workers=1)
    for step in [*loader.dataset.pipeline, *hook.switch_pipeline]:
        step.update({key: (64, 64) for key in ('img_scale', 'scale', 'crop_size', 'size') if key in step})
    hook.switch_epoch = 2
    reseed_each_step(cfg)
    init_default_scope('mmdet')

    def images(epochs: tuple[int, ...], persistent: bool = False) -> dict[int, torch.Tensor]:
        loader = Runner.build_dataloader(dict(cfg.train_dataloader, persistent_workers=persistent), seed=3)
        switch, found = HOOKS.build(hook), {}
        for epoch in epochs:
            runner = SimpleNamespace(epoch=epoch, train_dataloader=loader, logger=logging.getLogger())
            switch.before_train_epoch(runner)
            loader.sampler.set_epoch(epoch)
            found[epoch] = torch.stack([image for batch in loader for image in batch['inputs']])
        return found

    expected = images((0, 1, 2))
    for epoch in (1, 2):
        assert torch.equal(images((epoch,))[epoch], expected[epoch]), 'resumed before this epoch'
    assert not torch.equal(images((0, 1), persistent=True)[1], expected[1]), 'with images of the epoch before'
