"""Configs that were saved under former names."""

from pkgutil import resolve_name

from mmengine.registry import HOOKS, TRANSFORMS

from mmiformer.apis.cli import load_config
from mmiformer.datasets import LoadCheckedImage, LoadCheckedSegMap
from mmiformer.engine import AtomicCheckpointHook, CheckFiniteHook

SAVED = """
default_hooks = dict(checkpoint=dict(type='WholeCheckpointHook', interval=1), finite=dict(type='FiniteHook'))
test_pipeline = [dict(type='LoadIntactImage'), [dict(type='LoadIntactSegMap')], dict(type='Resize')]
model = dict(
    type='mmiformer.classifiers.distillation.DistilledClassifier',
    backbone=dict(type='mmiformer.backbones.timm_features.TIMMFeatures'),
    head=dict(type='mmiformer.classifiers.head.NormLinearClsHead'),
)
"""


def test_a_saved_config_is_read_with_the_names_of_today(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text(SAVED)
    cfg = load_config(str(file))
    assert cfg.default_hooks.checkpoint == dict(type='AtomicCheckpointHook', interval=1)
    assert cfg.default_hooks.finite.type == 'CheckFiniteHook'
    image, (labels,), resize = cfg.test_pipeline
    assert (image.type, labels.type, resize.type) == ('LoadCheckedImage', 'LoadCheckedSegMap', 'Resize')
    for part in (cfg.model, cfg.model.backbone, cfg.model.head):
        assert isinstance(resolve_name(part.type), type), part.type


def test_the_toolboxes_own_scripts_find_the_former_names():
    assert HOOKS.get('WholeCheckpointHook') is AtomicCheckpointHook
    assert HOOKS.get('FiniteHook') is CheckFiniteHook
    assert TRANSFORMS.get('LoadIntactImage') is LoadCheckedImage
    assert TRANSFORMS.get('LoadIntactSegMap') is LoadCheckedSegMap
