import pytest
import safetensors.torch
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmiformer.utils.errors import UserError

timm = pytest.importorskip('timm')


def build(name: str, indices: tuple[int, ...], **kwargs) -> nn.Module:
    init_default_scope('mmdet')
    net = MODELS.build(
        dict(
            type='mmiformer.models.backbones.timm_features.TIMMFeatures',
            model_name=name,
            out_indices=indices,
            **kwargs,
        )
    )
    net.init_weights()
    return net


# Both of timm's kinds of feature extractors: a class of its own, and children of containers.
@pytest.mark.parametrize(
    ('name', 'indices', 'channels'),
    [('mobilenetv3_small_050', (2, 3, 4), (16, 24, 288)), ('repvit_m0_9', (1, 2, 3), (96, 192, 384))],
)
def test_weights_of_a_classifier_are_loaded(tmp_path, name, indices, channels):
    whole = timm.create_model(name).eval()
    file = str(tmp_path / 'model.safetensors')
    safetensors.torch.save_file(whole.state_dict(), file)
    net = build(name, indices, init_cfg=dict(type='Pretrained', checkpoint=file)).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = net(image)
        features = whole.forward_intermediates(image, indices=list(indices), intermediates_only=True)
    assert net.out_channels == channels == tuple(m.shape[1] for m in maps)
    if name.startswith('repvit'):
        torch.testing.assert_close(maps, tuple(features))
    else:  # timm returns the last map before the last convolution; the others are the same.
        torch.testing.assert_close(maps[:2], tuple(features[:2]))


def test_weights_of_another_network_are_an_error(tmp_path):
    file = str(tmp_path / 'model.safetensors')
    for other, words in (
        ('mobilenetv3_small_075', r'blocks\.\d.*in the weights and .* in the network'),
        ('repvit_m0_9', 'is missing in the weights'),
    ):
        safetensors.torch.save_file(timm.create_model(other).state_dict(), file)
        with pytest.raises(UserError, match=rf"model\.safetensors: does not fit timm's .*{words}"):
            build('mobilenetv3_small_050', (2,), init_cfg=dict(type='Pretrained', checkpoint=file))


def test_norm_eval_keeps_statistics():
    net = build('mobilenetv3_small_050', (2,), norm_eval=True).train()
    before = {k: v.clone() for k, v in net.state_dict().items() if 'running' in k}
    net(torch.rand(2, 3, 64, 64))
    assert net.training and all(torch.equal(net.state_dict()[k], v) for k, v in before.items())
    free = build('mobilenetv3_small_050', (2,)).train()
    free(torch.rand(2, 3, 64, 64))
    assert not all(torch.equal(free.state_dict()[k], v) for k, v in before.items())


def test_norms_after_the_maps_learn_with_norm_eval():
    net = build('mobilenetv3_small_050', (2, 3), norm_eval=True, out_norm_cfg=dict(type='BN')).train()
    before = {k: v.clone() for k, v in net.state_dict().items() if 'running' in k}
    maps = net(torch.rand(2, 3, 64, 64))
    assert all(m.mean((0, 2, 3)).abs().max() < 1e-5 for m in maps), 'normalised'
    moved = {k for k, v in before.items() if not torch.equal(net.state_dict()[k], v)}
    assert moved == {f'out_norms.{i}.{name}' for i in (0, 1) for name in ('running_mean', 'running_var')}
