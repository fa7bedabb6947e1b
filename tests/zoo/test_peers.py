from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmiformer.checkpoints import Checkpoint
from mmiformer.zoo.peers import PEERS, configs
from mmiformer.zoo.published import DOWNSTREAM

timm = pytest.importorskip('timm')
FOLDER = Path(__file__).parents[2] / 'configs'
PATHS = list(configs())
# Millions of parameters after the last map, which the published number includes: the classifier, a second one
# for distillation (EfficientFormer), the convolution before it (EfficientNet, FastViT).
CLASSIFIER = dict(
    efficientnet_b0=1.69,
    resnet18=0.51,
    resnet50=2.05,
    poolformer_s12=0.51,
    poolformer_s24=0.51,
    efficientformer_l1=0.90,
    efficientformer_l3=1.03,
    efficientformerv2_l=0.77,
    fastvit_sa12=1.17,
    fastvit_sa24=1.17,
    repvit_m1_1=0.51,
    repvit_m1_5=0.51,
    convnext_t=0.77,
    pvtv2_b1=0.51,
    swin_t=0.77,
)


def read(path: str) -> Config:
    return Config.fromfile(FOLDER / path)


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    model = dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None))
    # mm's own transformers ask tensors for their values while they are built.
    own = cfg.model.backbone.type in ('mmdet.SwinTransformer', 'mmpretrain.ConvNeXt')
    with torch.device('cpu' if own else 'meta'):
        return MODELS.build(model).to('meta')


def test_every_foreign_row_of_the_table_but_one_is_a_peer():
    rows = [row.title for row in DOWNSTREAM if row.family != 'iFormer']
    assert [title for title in rows if title not in {peer.title for peer in PEERS}] == ['EfficientMod-S']
    assert [peer.title for peer in sorted(PEERS, key=lambda p: rows.index(p.title))] == [
        p.title for p in PEERS
    ]


def test_committed_configs_equal_the_generated_ones():
    committed = {
        str(file.relative_to(FOLDER)): file.read_text()
        for file in FOLDER.glob('*/*.py')
        if file.read_text().startswith('# Made from mmiformer/zoo/peers.py')
    }
    assert committed == configs() and len(committed) == 2 * len(PEERS) == 30


@pytest.mark.parametrize('path', PATHS)
def test_configs_differ_from_iformer_in_the_backbone_only(path):
    ours = 'maskrcnn_iformer_m_coco' if path.startswith('detection') else 'fpn_iformer_m_ade20k'
    peer, iformer = (read(p).to_dict() for p in (path, f'{path.split("/")[0]}/{ours}.py'))
    backbone = peer['model'].pop('backbone')
    channels = peer['model']['neck'].pop('in_channels')
    iformer['model'].pop('backbone'), iformer['model']['neck'].pop('in_channels')
    assert peer == iformer
    assert backbone['init_cfg']['type'] == 'Pretrained'
    assert backbone['init_cfg']['checkpoint'].startswith('https://')
    assert not {'frozen_stages', 'with_cp', 'norm_cfg'} & backbone.keys() and len(channels) == 4


@pytest.mark.parametrize('path', PATHS)
def test_feature_maps_of_an_odd_image_size(path):
    cfg = read(path)
    model = build(cfg).eval()
    height, width = 97, 131
    maps = model.backbone(torch.empty(1, 3, height, width, device='meta'))
    assert [m.shape[1] for m in maps] == cfg.model.neck.in_channels
    for features, stride in zip(maps, (4, 8, 16, 32), strict=True):
        for side, found in zip((height, width), features.shape[2:], strict=True):
            assert found in (side // stride, -(-side // stride))
    pyramid = model.neck(maps)
    assert [p.shape[1:] for p in pyramid[:4]] == [(256, *m.shape[2:]) for m in maps]


@pytest.mark.parametrize('peer', PEERS, ids=lambda peer: peer.name)
def test_parameters_equal_the_published_number(peer):
    backbone = build(read(f'detection/maskrcnn_{peer.name}_coco.py')).backbone
    found = sum(p.numel() for n, p in backbone.named_parameters() if 'out_norms' not in n) / 1e6
    published = next(row.parameters for row in DOWNSTREAM if row.title == peer.title)
    print(f'\n{peer.title}: {found:.2f} M + classifier {CLASSIFIER[peer.name]} M, published {published} M')
    # FastViT's authors published fewer than their released networks have, which are timm's.
    tolerance = 0.065 if peer.name.startswith('fastvit') else 0.02
    assert found + CLASSIFIER[peer.name] == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize('peer', [p for p in PEERS if 'model_name' in p.backbone], ids=lambda p: p.name)
def test_timm_weights_exist_and_fill_the_backbone(peer, monkeypatch):
    """With the names and shapes of timm's complete network; a missing tensor is an error."""
    name, url = peer.backbone['model_name'], peer.backbone['init_cfg']['checkpoint']
    hub = url.removeprefix('https://huggingface.co/').removesuffix('/resolve/main/model.safetensors')
    tag = timm.models.get_pretrained_cfg(hub.removeprefix('timm/'), allow_unregistered=False)
    assert tag.hf_hub_id == hub and hub.startswith(f'timm/{name}.')
    # The images are normalised as for iFormer.
    assert (tag.mean, tag.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    backbone = build(read(f'detection/maskrcnn_{peer.name}_coco.py')).backbone
    with torch.device('meta'):
        weights = timm.create_model(name).state_dict()
    monkeypatch.setattr('mmiformer.models.backbones.timm_features.read', lambda file: Checkpoint(weights))
    backbone.init_cfg = dict(peer.backbone['init_cfg'])
    backbone.init_weights()


def test_other_weights_are_those_of_mmdet_and_torchvision():
    mmdet = pytest.importorskip('mmdet')
    models = pytest.importorskip('torchvision.models')
    peers = {peer.name: peer.backbone for peer in PEERS}
    files = Path(mmdet.__file__).parent / '.mim' / 'configs'
    for name, file in (
        ('swin_t', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
        ('convnext_t', 'convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'),
    ):
        theirs = Config.fromfile(files / file).model
        own, other = (b['init_cfg'] for b in (peers[name], theirs.backbone))
        # OneDL's line names another host.
        assert own['checkpoint'].split('/')[-1] == other.pop('checkpoint').split('/')[-1]
        assert other == {key: value for key, value in own.items() if key != 'checkpoint'}
        assert peers[name].get('convert_weights') == theirs.backbone.get('convert_weights')
    for depth, weights in ((18, models.ResNet18_Weights), (50, models.ResNet50_Weights)):
        assert peers[f'resnet{depth}']['init_cfg']['checkpoint'] == weights.IMAGENET1K_V1.url
