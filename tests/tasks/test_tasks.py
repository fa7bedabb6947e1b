"""The definitions of the tasks, and the export wrappers of new heads."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmiformer.datasets.audit import ade20k, coco, imagenet
from mmiformer.deploy import build_export_wrapper
from mmiformer.deploy.wrappers import ExportWrapper, FromPixels, LabelMap, Logits
from mmiformer.tasks import MAIN_METRICS, METRICS, TASKS, task_of
from mmiformer.utils.errors import UserError


def test_metrics_are_those_of_all_tasks():
    assert sum(len(task.metrics) for task in TASKS.values()) == len(METRICS)
    assert MAIN_METRICS == ['top1', 'box_ap', 'mask_ap', 'miou'] and set(MAIN_METRICS) < set(METRICS)


def test_numbers_of_images_are_the_official_ones():
    assert TASKS['cls'].images == tuple(imagenet.OFFICIAL.values())
    assert TASKS['seg'].images == tuple(ade20k.OFFICIAL.values())
    train, test = TASKS['det'].images
    assert train < coco.OFFICIAL['train'][0] and test == coco.OFFICIAL['val'][0]


@pytest.mark.parametrize('content', [{}, dict(default_scope='mmpose')])
def test_a_config_of_no_known_task(content):
    with pytest.raises(UserError, match='own.py: default_scope=.*mmpretrain, mmdet, mmseg'):
        task_of(Config(content), 'own.py')


class Identity(nn.Module):
    """A model that returns its input."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


class Doubled(ExportWrapper):
    """Export wrapper of a new head."""

    outputs = ('image',)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (2 * self.model(image),)


@pytest.fixture
def own_wrapper(monkeypatch) -> str:
    """Import path of the wrapper."""
    monkeypatch.setattr('mmiformer.deploy.wrappers.Doubled', Doubled, raising=False)
    return 'mmiformer.deploy.wrappers.Doubled'


def test_a_new_head_adds_its_export_wrapper(own_wrapper, monkeypatch):
    model = type('NewDetector', (Identity,), dict(__module__='mmdet.models.detectors.new'))()
    with pytest.raises(UserError, match='NewDetector: has no export wrapper'):
        build_export_wrapper(model, 'model')
    monkeypatch.setitem(TASKS['det'].export_wrappers, 'NewDetector', own_wrapper)
    wrapper = build_export_wrapper(model, 'model')
    assert type(wrapper) is Doubled and wrapper.model is not model
    assert build_export_wrapper(model, 'model', folded=False).model is model
    pixels = torch.full((1, 2, 2, 3), 5, dtype=torch.uint8)
    whole = FromPixels(wrapper, dict(mean=[1.0] * 3, std=[2.0] * 3, bgr_to_rgb=True))
    assert torch.equal(whole(pixels)[0], torch.full((1, 3, 2, 2), 4.0))


def test_models_are_wrapped_by_their_toolbox_or_that_of_their_base(monkeypatch):
    monkeypatch.setattr(LabelMap, '__init__', ExportWrapper.__init__)
    for scope, wrapper in (('mmseg', LabelMap), ('mmpretrain', Logits)):
        base = type('Base', (Identity,), dict(__module__=f'{scope}.models'))
        assert type(build_export_wrapper(type('Own', (base,), {})(), 'model')) is wrapper
    with pytest.raises(UserError, match='Identity: has no export wrapper'):
        build_export_wrapper(Identity(), 'model')
