import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import forget_visualizers
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from small_training import Random, small_training

from mmiformer.apis.cli import load_config
from mmiformer.engine.validation_loss import _with_targets
from mmiformer.utils.configs import walk


def trained(run: str, **hooks) -> Runner:
    runner = small_training(run, **hooks)
    runner.train()
    return runner


def test_the_loss_is_that_of_all_images_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    best = dict(save_best='val_loss')
    with_loss = trained('with', val_loss=dict(type='ValidationLossHook'), checkpoint=best)
    without = trained('without')
    for name, weight in without.model.state_dict().items():
        assert torch.equal(with_loss.model.state_dict()[name], weight), name
    logged = with_loss.message_hub.get_scalar('val/val_loss').data[0].tolist()
    inputs, targets = torch.stack([torch.arange(5) / 4, torch.ones(5)], 1), torch.arange(5)
    for epoch, value in enumerate(logged, 1):
        model = Random().eval()
        model.load_state_dict(torch.load(f'with/epoch_{epoch}.pth', weights_only=False)['state_dict'])
        assert value == pytest.approx(model.loss(inputs, targets)['loss_square'].item(), rel=1e-5)
    assert len(set(logged)) == 3
    assert [path.name for path in Path('with').glob('best*')] == [
        f'best_val_loss_epoch_{1 + logged.index(min(logged))}.pth'
    ]


def prepared(name: str, **labels: object) -> tuple[torch.Tensor, object, object]:
    """An image of the loss, its ground truth there and in the evaluation."""
    cfg = load_config(name)
    init_default_scope(cfg.default_scope)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save('image.png')
    data = dict(img_path='image.png', img_id=1, sample_idx=0, height=60, width=90, **labels)
    pipelines = [loader.dataset.pipeline for loader in (_with_targets(cfg), cfg.val_dataloader)]
    small = [[dict(step, scale=(180, 180)) if 'scale' in step else step for step in p] for p in pipelines]
    items = [Compose(pipeline)(copy.deepcopy(data)) for pipeline in small]
    assert torch.equal(items[0]['inputs'], items[1]['inputs'])
    return items[0]['inputs'], items[0]['data_samples'], items[1]['data_samples']


@pytest.mark.parametrize('name', ['maskrcnn_iformer_t_coco', 'rtmdetins_iformer_t_coco'])
def test_boxes_and_masks_are_resized_with_the_images(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    polygon = [[10.0, 20.0, 40.0, 20.0, 40.0, 50.0, 10.0, 50.0]]
    instance = dict(bbox=[10.0, 20.0, 40.0, 50.0], bbox_label=0, mask=polygon, ignore_flag=0)
    image, sample, evaluated = prepared(name, instances=[instance])
    assert sample.gt_instances.bboxes.tensor.tolist() == [[20.0, 40.0, 80.0, 100.0]]
    assert evaluated.gt_instances.bboxes.tensor.tolist() == [[10.0, 20.0, 40.0, 50.0]]
    (mask,) = sample.gt_instances.masks.to_ndarray()
    assert mask.shape == image.shape[1:] and mask[40:100, 20:80].all() and mask.sum() == 3600


def test_label_maps_are_resized_with_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.repeat(np.arange(1, 61, dtype=np.uint8)[:, None], 90, axis=1)  # Each row has its own.
    Image.fromarray(labels).save('labels.png')
    table = np.arange(256, dtype=np.uint8) - 1  # As CheckedADE20KDataset numbers them.
    settings = dict(seg_map_path='labels.png', label_table=table, seg_fields=[])
    image, sample, evaluated = prepared('fpn_iformer_t_ade20k', **settings)
    assert sample.gt_sem_seg.data.shape[1:] == image.shape[1:] == (120, 180)
    assert sample.gt_sem_seg.data[0, :, 0].tolist() == [row // 2 for row in range(120)]
    assert evaluated.gt_sem_seg.data[0, :, 0].tolist() == list(range(60))


def test_masks_of_images_that_are_padded(at_work, tmp_path):
    """RTMDet-Ins compares its masks with the ground truth's, which mmdet pads in training only."""
    forget_visualizers()
    options = {
        'train_cfg.max_iters': 1,
        'train_cfg.val_interval': 1,
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.indices': 2,
        'val_dataloader.dataset.indices': 2,
        'default_hooks.val_loss.type': 'ValidationLossHook',
        'default_hooks.checkpoint': None,
    }
    cfg = load_config('rtmdetins_iformer_t_coco', options, demo=True)
    steps = [step for _, step in walk([cfg.val_dataloader]) if step.get('type') == 'Resize']
    assert steps
    for step in steps:
        step.scale = (85, 128)
    pipeline = cfg.val_dataloader.dataset.pipeline
    cfg.val_dataloader.dataset.pipeline = [step for step in pipeline if step.type != 'Pad']
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 0 < runner.message_hub.get_scalar('val/val_loss').current() < 100
