"""Configs that were saved under former names."""

from pkgutil import resolve_name

from mmengine.registry import HOOKS, TRANSFORMS

from mmiformer.apis.cli import load_config
from mmiformer.datasets import LoadCheckedImage, LoadCheckedSegMap
from mmiformer.engine import AtomicCheckpointHook, CheckFiniteHook

SAVED = """
model = dict(
    type='mmiformer.classifiers.distillation.DistilledClassifier',
    backbone=dict(type='mmiformer.backbones.timm_features.TIMMFeatures'),
    head=dict(type='mmiformer.classifiers.head.NormLinearClsHead'),
)
"""


def test_former_modules_in_a_saved_config_are_found(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text(SAVED)
    cfg = load_config(str(file))
    for part in (cfg.model, cfg.model.backbone, cfg.model.head):
        assert isinstance(resolve_name(part.type), type), part.type


def test_former_class_names_are_registered():
    assert HOOKS.get('WholeCheckpointHook') is AtomicCheckpointHook
    assert HOOKS.get('FiniteHook') is CheckFiniteHook
    assert TRANSFORMS.get('LoadIntactImage') is LoadCheckedImage
    assert TRANSFORMS.get('LoadIntactSegMap') is LoadCheckedSegMap
