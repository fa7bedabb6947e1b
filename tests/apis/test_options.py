"""A mistyped key of --cfg-options is an error, and every key that something reads is not."""

import pytest
from mmengine.config import Config

from mmiformer.apis.cli import load_config
from mmiformer.apis.options import merge_options
from mmiformer.utils.errors import UserError

CONFIG = 'rtmdetins_iformer_t_coco'


@pytest.mark.parametrize(
    ('key', 'hint'),
    [
        ('model.backbone.with_cpp', "model.backbone (IFormer) has no 'with_cpp'; did you mean with_cp?"),
        ('model.bbox_head.loss_cls.weight', "(QualityFocalLoss) has no 'weight'"),
        ('train_cfg.max_iters', "train_cfg (EpochBasedTrainLoop) has no 'max_iters'"),
        (
            'train_dataloader.dataset.indeces',
            'did you mean indices?',
        ),  # An argument of mmengine's base class.
        ('optim_wrapper.optimizer.lrr', "optim_wrapper.optimizer (AdamW) has no 'lrr'; did you mean lr?"),
        ('model.test_cfg.score_thrr', "model.test_cfg has no 'score_thrr'; did you mean score_thr?"),
        ('default_hooks.checkpoint.save_bets', 'did you mean save_best'),
        ('work_dirr', "the config has no 'work_dirr'; did you mean work_dir?"),
    ],
)
def test_a_mistyped_key_is_an_error(key, hint):
    with pytest.raises(UserError, match=f'--cfg-options {key}: ') as error:
        load_config(CONFIG, {key: 1})
    assert hint in str(error.value) and f'+{key}=... sets it nevertheless' in str(error.value)
    assert 'x' in load_config(CONFIG, {f'+{key}': 'x'}).pretty_text


@pytest.mark.parametrize(
    'key',
    [
        *('model.backbone.with_cp', 'model.init_cfg.checkpoint', 'model.train_cfg.assigner.topk'),
        *('randomness.seed', 'load_from', 'env_cfg.cudnn_benchmark', 'default_hooks.early.type'),
        *('train_dataloader.batch_size', 'train_dataloader.drop_last', 'train_dataloader.dataset.indices'),
        *('optim_wrapper.accumulative_counts', 'optim_wrapper.clip_grad.max_norm'),
        *('optim_wrapper.optimizer.foreach', 'train_dataloader.dataset.pipeline.0.imdecode_backend'),
    ],
)
def test_a_key_that_something_reads_is_none(key):
    merge_options(load_config(CONFIG), {key: 1})


def types_alone(part):
    """A part of a config without anything but its types."""
    if isinstance(part, dict):
        inner = {key: types_alone(value) for key, value in part.items()}
        return {k: v for k, v in inner.items() if k == 'type' or isinstance(v, dict | list)}
    return [types_alone(value) for value in part] if isinstance(part, list) else part


def leaves(part, key=''):
    for name, value in part.items() if isinstance(part, dict) else enumerate(part):
        inner = f'{key}.{name}' if key else str(name)
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value)):
            yield from leaves(value, inner)
        elif name != 'type':
            yield inner, value


@pytest.mark.parametrize(
    'name',
    [
        *('maskrcnn_iformer_m_coco', 'retinanet_mocovit_bccd', 'rtmdet_iformer_s_coco', CONFIG),
        *('fpn_iformer_t_camvid', 'upernet_iformer_m_ade20k', 'lraspp_mocovit_ade20k'),
        *('iformer_m_distill_in1k', 'mocovit_in1k', 'iformer_t_cells'),
    ],
)
def test_all_keys_of_our_configs_are_read_by_something(name):
    cfg = load_config(name).to_dict()
    bare = Config(dict(cfg, **types_alone(cfg)))  # Names at the top are free.
    merge_options(bare, dict(leaves(cfg)))
    assert bare.model == Config(cfg).model
