import pytest
import torch
from helpers import SMALL_IFORMER, trained_looking
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmiformer import IFormer, MoCoViT
from mmiformer.deploy.runtimes.base import ExportOptions, trace
from mmiformer.deploy.wrappers import Features, LabelMap


@pytest.mark.parametrize('config', ['fpn_iformer_t_ade20k', 'upernet_iformer_t_ade20k'])
def test_label_map_equals_mmsegs_whole_mode(root, config):
    pytest.importorskip('mmseg')
    init_default_scope('mmseg')
    cfg = Config.fromfile(root / f'configs/segmentation/{config}.py').model
    cfg.backbone.update(init_cfg=None, arch=SMALL_IFORMER)
    part = cfg.neck if cfg.get('neck') else cfg.decode_head
    part.in_channels = list(SMALL_IFORMER['dims'])
    for head in ('decode_head', 'auxiliary_head'):
        if cfg.get(head) and cfg[head].norm_cfg:
            cfg[head].norm_cfg.type = 'BN'
    if cfg.get('auxiliary_head'):
        cfg.auxiliary_head.in_channels = SMALL_IFORMER['dims'][cfg.auxiliary_head.in_index]
    model = trained_looking(MODELS.build(cfg)).eval()
    image = torch.randn(2, 3, 97, 131)
    with torch.no_grad():
        logits = model.encode_decode(image, [dict(img_shape=(97, 131))] * 2)
        for folded, least in ((False, 1), (True, 0.9999)):
            (labels,) = LabelMap(model, folded)(image)
            assert (labels == logits.argmax(dim=1)).float().mean() >= least


@pytest.mark.parametrize('kind', [IFormer, MoCoViT])
@pytest.mark.parametrize('dynamic', [False, True])
def test_exported_tensors_have_at_most_rank_4(kind, dynamic):
    options = dict(arch=SMALL_IFORMER, window_size=16) if kind is IFormer else {}
    wrapper = Features(kind(out_indices=(0, 1, 2, 3), **options))
    graph = trace(wrapper, ExportOptions(torch.zeros(1, 3, 97, 131), dynamic)).graph
    values = [node.meta.get('val') for node in graph.nodes]
    assert max(value.dim() for value in values if isinstance(value, torch.Tensor)) == 4
