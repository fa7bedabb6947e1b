import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmiformer.training import prepare_training


def prepared(allow_nan: bool = False, **settings) -> Config:
    dataset = dict(type='Any', pipeline=[dict(type='Any')])
    loader = dict(sampler=dict(type='DefaultSampler'), dataset=dataset)
    cfg = Config(dict(train_dataloader=loader, **settings))
    prepare_training(cfg, allow_nan)
    return cfg


@pytest.mark.parametrize(
    'kind', ['CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook], ids=['name', 'scope', 'class']
)
def test_mmengines_hook_is_replaced_by_any_of_its_names(kind):
    hooks = prepared(default_hooks=dict(checkpoint=dict(type=kind, interval=7))).default_hooks
    assert hooks.checkpoint == dict(type='WholeCheckpointHook', interval=7)


def test_what_a_config_says_itself_stays():
    assert prepared().default_hooks.checkpoint.type == 'WholeCheckpointHook'
    assert prepared(default_hooks=None).default_hooks.finite == dict(type='FiniteHook')
    assert prepared(default_hooks=dict(checkpoint=None)).default_hooks.checkpoint is None
    assert prepared(allow_nan=True).default_hooks.finite.stop is False
    cfg = prepared(allow_nan=True)
    prepare_training(cfg)
    assert cfg.default_hooks.finite.stop is False, 'as config.py of such a run says'
