import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook

from mmiformer.engine import prepare_training

LOADER = dict(sampler=dict(type='Any'), dataset=dict(type='Any', pipeline=[dict(type='Any')]))


def prepared(allow_nan: bool = False, **settings) -> Config:
    cfg = Config(dict(train_dataloader=LOADER) | settings)
    prepare_training(cfg, allow_nan)
    return cfg


@pytest.mark.parametrize(
    'kind', ['CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook], ids=['name', 'scope', 'class']
)
def test_mmengines_checkpoint_hook_is_replaced(kind):
    hooks = prepared(default_hooks=dict(checkpoint=dict(type=kind, interval=7))).default_hooks
    assert hooks.checkpoint == dict(type='AtomicCheckpointHook', interval=7)


def test_early_stopping_can_be_resumed():
    stop = dict(monitor='score', patience=7)
    hooks = dict(stop=dict(stop, type=EarlyStoppingHook)), [dict(stop, type='EarlyStoppingHook')]
    cfg = prepared(default_hooks=hooks[0], custom_hooks=hooks[1])
    for hook in (cfg.default_hooks.stop, cfg.custom_hooks[0]):
        assert hook == dict(stop, type='ResumableEarlyStoppingHook')


def test_settings_of_a_config_are_kept():
    assert prepared().default_hooks.checkpoint.type == 'AtomicCheckpointHook'
    assert prepared(default_hooks=None).default_hooks.finite == dict(type='CheckFiniteHook')
    assert prepared(default_hooks=dict(checkpoint=None)).default_hooks.checkpoint is None
    assert prepared(allow_nan=True).default_hooks.finite.stop is False
    assert prepared(allow_nan=True, default_hooks=dict(finite=None)).default_hooks.finite is None
    wrappers = {
        name: dict(optimizer=dict(type=name) | settings)
        for name, settings in dict(AdamW={}, SGD={}, Adam=dict(fused=False)).items()
    }
    fused = {n: prepared(optim_wrapper=w).optim_wrapper.optimizer.get('fused') for n, w in wrappers.items()}
    assert fused == dict(AdamW=True, SGD=None, Adam=False)
    cfg = prepared(allow_nan=True)
    prepare_training(cfg)
    assert cfg.default_hooks.finite.stop is False, 'as in the config.py of such a run'


@pytest.mark.parametrize(
    'settings',
    [dict(sampler=None), dict(dataset=dict(type='Any', pipeline=[])), dict(dataset=dict(type='Any'))],
    ids=['no sampler', 'no transforms', 'no pipeline'],
)
def test_a_loader_without_sampler_or_pipeline_is_unchanged(settings):
    loader = prepared(train_dataloader=LOADER | settings).train_dataloader
    assert loader | settings == loader
