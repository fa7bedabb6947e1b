from pathlib import Path

import pytest
from mmengine.config import Config

from mmiformer.apis.configs import config_file, config_files
from mmiformer.checkpoints.released import RELEASED
from mmiformer.utils.errors import UserError
from mmiformer.zoo.entries import entries
from mmiformer.zoo.published import DOWNSTREAM, IMAGENET

FOLDER = Path(__file__).parents[2] / 'configs'
BY_NAME = {entry.name: entry for entry in entries()}


def test_every_config_but_the_examples_for_own_data_is_an_entry():
    files = {file.stem for file in FOLDER.glob('[!_]*/*.py')}
    assert set(config_files()) == files
    assert files - set(BY_NAME) == {n for n in files if n.endswith(('_bccd', '_camvid', '_cells'))}
    for name, entry in BY_NAME.items():
        cfg = Config.fromfile(config_files()[name])
        assert entry.task == {'mmpretrain': 'cls', 'mmdet': 'det', 'mmseg': 'seg'}[cfg.default_scope]
        assert (entry.framework is None) == (entry.task == 'cls')


# From the papers.
@pytest.mark.parametrize(
    ('name', 'title', 'figures'),
    [
        ('iformer_t_in1k', 'iFormer-T', dict(top1=74.1)),
        ('iformer_l2_distill_in1k', 'iFormer-L2', dict(top1=83.9)),
        ('iformer_t_distill_in1k', 'iFormer-T', {}),
        ('mocovit_in1k', 'MoCoViT-1.0', dict(top1=74.5)),
        (
            'maskrcnn_iformer_m_coco',
            'iFormer-M',
            dict(box_ap=40.8, box_ap50=62.5, box_ap75=44.8, mask_ap=37.9, mask_ap50=59.7, mask_ap75=40.7),
        ),
        ('maskrcnn_iformer_s_coco', 'iFormer-S', {}),
        ('retinanet_iformer_m_coco', 'iFormer-M', {}),
        ('fpn_iformer_l2_ade20k', 'iFormer-L2', dict(miou=46.2)),
        ('fpn_swin_t_ade20k', 'Swin-T', dict(miou=41.5)),
        ('fpn_efficientnet_b0_ade20k', 'EfficientNet-B0', {}),
        ('upernet_iformer_m_ade20k', 'iFormer-M', {}),
    ],
)
def test_figures_of_an_entry(name, title, figures):
    entry = BY_NAME[name]
    assert (entry.title, entry.published) == (title, figures)
    assert (entry.source is None) == (not figures)


def test_every_published_row_has_its_config():
    for framework, task in (('Mask R-CNN', 'det'), ('Semantic FPN', 'seg')):
        titles = {e.title for e in BY_NAME.values() if (e.framework, e.task) == (framework, task)}
        assert {row.title for row in DOWNSTREAM} - titles == {'EfficientMod-S'}
    ours = {(row.name, row.distilled) for row in IMAGENET if row.family in ('iFormer', 'MoCoViT')}
    assert ours <= {(e.network, e.distilled) for e in BY_NAME.values() if e.task == 'cls'}


def test_released_weights():
    """The release has eight classifiers, three detectors and three segmentors."""
    assert sorted(w.file for w in RELEASED.values()) == sorted(
        [f'iFormer_{arch}.pth' for arch in 'tsmlh']
        + [f'iFormer_{arch}_distill.pth' for arch in ('m', 'l', 'l2')]
        + [f'iFormer_{arch}_{end}.pth' for arch in ('m', 'l', 'l2') for end in ('epoch_12', 'iter_40000')]
    )
    assert set(RELEASED) <= set(BY_NAME)
    classifiers = {w.url for name, w in RELEASED.items() if name.endswith('_in1k')}
    for name, entry in BY_NAME.items():
        if entry.family == 'iFormer' and entry.task != 'cls':
            init = Config.fromfile(config_files()[name]).model.backbone.init_cfg
            assert init.checkpoint in classifiers, name


def test_an_unknown_name_is_an_error_with_similar_names():
    with pytest.raises(UserError, match='did you mean maskrcnn_iformer_m_coco'):
        config_file('maskrcnn_iformer_mm_coco')
    with pytest.raises(UserError, match="config 'x'"):
        config_file('x')
