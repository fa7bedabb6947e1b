import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmiformer.apis.cli import load_config
from mmiformer.datasets.checks import build_datasets
from mmiformer.engine import predictions, reseed_each_step


@pytest.fixture
def runner():
    loader = SimpleNamespace(dataset=None)
    return SimpleNamespace(model=None, val_dataloader=loader, cfg=None, logger=logging.getLogger('run'))


def test_each_evaluation_replaces_the_picture(runner, tmp_path, monkeypatch, caplog):
    drawn = iter(('first', 'second'))
    monkeypatch.setattr(predictions, '_draw', lambda *args: args[-1].write_text(next(drawn)))
    picture = tmp_path / 'predictions.png'
    hook = predictions.DrawPredictionsHook(picture)
    with caplog.at_level(logging.INFO, 'run'):
        for expected in ('first', 'second'):
            hook.after_val_epoch(runner)
            assert picture.read_text() == expected
    assert caplog.text.count(str(picture)) == 2 and list(tmp_path.iterdir()) == [picture]


def test_an_error_in_drawing_does_not_stop_the_run(runner, tmp_path, monkeypatch, caplog):
    def fail(*args):
        raise OSError('no space left')

    monkeypatch.setattr(predictions, '_draw', fail)
    predictions.DrawPredictionsHook(tmp_path / 'predictions.png').after_val_epoch(runner)
    assert 'no predictions drawn (no space left)' in caplog.text


def test_training_images_leave_random_numbers_and_mosaics_as_they_are(root, at_work, tmp_path):
    mosaics = load_config('rtmdetins_iformer_t_coco').train_dataloader.dataset.pipeline
    cfg = load_config('rtmdetins_iformer_t_coco', demo=True)
    cfg.train_dataloader.dataset.pipeline = mosaics
    reseed_each_step(cfg)
    dataset = build_datasets(cfg, 'train')[0]

    def numbers() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), float(torch.rand(1))

    def seed() -> None:
        for function in (random.seed, np.random.seed, torch.manual_seed):
            function(1)

    seed()
    expected = numbers()
    seed()
    predictions.draw_training_images(dataset, cfg, tmp_path / 'images.png', count=2)
    assert numbers() == expected
    caches = [t.results_cache for t in dataset.pipeline.transforms if hasattr(t, 'results_cache')]
    assert len(caches) == 2 and not any(caches)
