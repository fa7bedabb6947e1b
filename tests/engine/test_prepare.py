import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from torch import nn

from mmiformer.engine import CheckFiniteHook, prepare_training

LOADER = dict(sampler=dict(type='Any'), dataset=dict(type='Any', pipeline=[dict(type='Any')]))


def prepared(allow_nan: bool = False, **settings) -> Config:
    cfg = Config(dict(train_dataloader=LOADER) | settings)
    prepare_training(cfg, allow_nan)
    return cfg


@pytest.mark.parametrize(
    'kind', ['CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook], ids=['name', 'scope', 'class']
)
def test_mmengines_hook_is_replaced_by_any_of_its_names(kind):
    hooks = prepared(default_hooks=dict(checkpoint=dict(type=kind, interval=7))).default_hooks
    assert hooks.checkpoint == dict(type='AtomicCheckpointHook', interval=7)


def test_what_a_config_says_itself_stays():
    assert prepared().default_hooks.checkpoint.type == 'AtomicCheckpointHook'
    assert prepared(default_hooks=None).default_hooks.finite == dict(type='CheckFiniteHook')
    assert prepared(default_hooks=dict(checkpoint=None)).default_hooks.checkpoint is None
    assert prepared(allow_nan=True).default_hooks.finite.stop is False
    cfg = prepared(allow_nan=True)
    prepare_training(cfg)
    assert cfg.default_hooks.finite.stop is False, 'as config.py of such a run says'


@pytest.mark.parametrize('allow_nan', [False, True])
def test_a_hook_that_is_switched_off_stays_off(tmp_path, allow_nan):
    cfg = prepared(allow_nan, default_hooks=dict(finite=None))
    prepare_training(cfg, allow_nan)  # As where config.py of such a run is run again.
    name = tmp_path.name
    runner = Runner(nn.Identity(), str(tmp_path), default_hooks=cfg.default_hooks, experiment_name=name)
    assert not any(isinstance(hook, CheckFiniteHook) for hook in runner.hooks)


@pytest.mark.parametrize(
    'settings',
    [dict(sampler=None), dict(dataset=dict(type='Any', pipeline=[])), dict(dataset=dict(type='Any'))],
    ids=['no sampler', 'no transforms', 'no pipeline'],
)
def test_what_a_loader_does_not_have_is_not_seeded(settings):
    loader = prepared(train_dataloader=LOADER | settings).train_dataloader
    assert loader | settings == loader
