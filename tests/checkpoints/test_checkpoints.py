import argparse
from collections import OrderedDict
from pathlib import Path

import golden
import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import Bomb
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, load_checkpoint

from mmiformer import IFormer
from mmiformer.checkpoints import load, read, translate
from mmiformer.deploy import fold
from mmiformer.errors import UserError


class SubtleBomb(Bomb):
    """The same by way of getattr, which the OneDL line's own allow-list lets through."""

    def __reduce__(self):
        return getattr, (HistoryBuffer.update, '__globals__')


def dense(arch: str = 'm', **kwargs) -> IFormer:
    return IFormer(arch, out_indices=(0, 1, 2, 3), window_size=16, **kwargs)


@pytest.fixture(scope='module')
def official(tmp_path_factory) -> Path:
    """A folder with files in the authors' formats, of golden weights."""
    folder = tmp_path_factory.mktemp('official')
    arguments = argparse.Namespace(model='iFormer_m', lr=4e-3, output_dir='x')
    for name in ('cls_m', 'cls_m_distill'):
        extra = dict(epoch=np.float64(299), args=arguments, optimizer=dict(state={}, param_groups=[]))
        torch.save(dict(model=golden.state_dict(name), **extra), folder / f'{name}.pth')
    for name in ('det_m', 'det_l'):
        weights = OrderedDict((f'backbone.{k}', v) for k, v in golden.state_dict(name).items())
        history = HistoryBuffer([1.0, 2.0], [1, 1])
        torch.save(
            dict(
                meta=dict(epoch=12, dataset_meta=dict(CLASSES=('person',))),
                message_hub=dict(log_scalars={'train/loss': history}, resumed_keys={}),
                state_dict=weights,
                optimizer=dict(state={}, param_groups=[]),
            ),
            folder / f'{name}.pth',
        )
    return folder


@pytest.mark.parametrize('case', ['det_m', 'det_l'])
def test_dense_golden_cases_from_an_official_file(official, case):
    net = dense(
        golden.CASES[case]['arch'], init_cfg=dict(type='Pretrained', checkpoint=str(official / f'{case}.pth'))
    )
    net.init_weights()
    net.eval()
    folded = fold(net)
    with torch.no_grad():
        image = golden.image(case)
        outputs, folded_outputs = net(image), folded(image)
    for name, output, other in zip(('c2', 'c3', 'c4', 'c5'), outputs, folded_outputs, strict=True):
        assert golden.error(case, name, output) < 1e-5
        assert float((other - output).norm() / output.norm()) < 1e-5


def test_every_kind_of_file_gives_the_same_backbone(official, tmp_path):
    reference = dense(init_cfg=dict(type='Pretrained', checkpoint=str(official / 'cls_m.pth')))
    reference.init_weights()
    expected = reference.state_dict()
    own = load(official / 'cls_m.pth')['state_dict']
    bare = {k: v for k, v in reference.state_dict().items()}
    torch.save(golden.state_dict('cls_m'), tmp_path / 'bare_official.pth')
    torch.save({f'module.{k}': v for k, v in golden.state_dict('cls_m').items()}, tmp_path / 'ddp.pth')
    torch.save(dict(state_dict=own), tmp_path / 'own_whole.pth')
    torch.save(bare, tmp_path / 'own_bare.pth')
    torch.save({f'module.{k}': v for k, v in bare.items()}, tmp_path / 'own_ddp.pth')
    safetensors.torch.save_file(bare, tmp_path / 'own.safetensors')
    safetensors.torch.save_file(golden.state_dict('cls_m'), tmp_path / 'official.safetensors')
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7
    for file in files:
        net = dense(init_cfg=dict(type='Pretrained', checkpoint=str(file)))
        net.init_weights()
        for key, value in net.state_dict().items():
            assert torch.equal(value, expected[key]), (file.name, key)


def test_timm_file(tmp_path):
    timm = pytest.importorskip('timm')
    if not timm.is_model('iformer_t'):
        pytest.skip('this timm has no iformer_t')
    other = timm.create_model('iformer_t').eval()
    torch.save(other.state_dict(), tmp_path / 'timm.pth')
    net = IFormer('t', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'timm.pth')))
    net.init_weights()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(image)[0], other.forward_features(image))


@pytest.mark.parametrize('network', [n for n in golden.KEYS if not n.startswith('det')])
def test_every_official_key_is_translated_and_nothing_is_lost(network):
    shapes = {k: torch.empty(s, device='meta') for k, s in golden.KEYS[network]}
    translation = translate(dict(model=shapes))
    own = translation.checkpoint['state_dict']
    arch = network.split('_')[1]
    with torch.device('meta'):
        net = IFormer(arch, layer_scale_init_value=1e-6 if arch == 'h' else 0)
    expected = {f'backbone.{k}': v.shape for k, v in net.state_dict().items()}
    assert {k: v.shape for k, v in own.items() if k.startswith('backbone.')} == expected
    heads = {k for k in own if not k.startswith('backbone.')}
    assert len(own) == len(shapes) and len(heads) == (14 if 'distill' in network else 7)
    assert all(k.startswith(('head.heads.0.', 'head.heads.1.')) for k in heads)
    assert net.arch_of({k.removeprefix('backbone.'): v for k, v in own.items()}) == arch


@pytest.mark.parametrize(
    'keys',
    [
        ['backbone.conv1.weight', 'backbone.layer1.0.conv1.weight'],  # ResNet
        ['backbone.stem.0.conv.weight', 'backbone.stem.0.bn.weight', 'backbone.stem.2.conv.weight'],  # RTMDet
        [
            'stem.conv1.c.weight',
            'stem.conv2.c.weight',
            'stages.0.blocks.0.token_mixer.conv.c.weight',
        ],  # RepViT
    ],
)
def test_other_networks_pass_through_untouched(keys):
    for checkpoint in (
        dict(state_dict={k: torch.zeros(1) for k in keys}, meta={}),
        {k: torch.zeros(1) for k in keys},
    ):
        assert translate(checkpoint).checkpoint is checkpoint and translate(checkpoint).recognised is None


def test_a_bare_file_of_ours_goes_into_a_bare_backbone_by_mmengine_too(tmp_path):
    net = IFormer('t')
    net.init_weights()
    torch.save(net.state_dict(), tmp_path / 'bare.pth')
    other = IFormer('t')
    load_checkpoint(other, str(tmp_path / 'bare.pth'), strict=True)
    assert torch.equal(other.stem[0].conv.weight, net.stem[0].conv.weight)


def test_a_bare_file_of_a_size_of_ones_own(tmp_path):
    arch = {**IFormer.arch_settings['t'], 'dims': (16, 32, 64, 128)}
    net = IFormer(arch, out_indices=(0, 1))
    net.init_weights()
    torch.save(net.state_dict(), tmp_path / 'own.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'own.pth'))
    other = IFormer(arch, out_indices=(0, 1), init_cfg=cfg)
    other.init_weights()
    assert torch.equal(other.stem[2].conv.weight, net.stem[2].conv.weight)


def test_init_cfg_as_a_list_and_by_class(official):
    from mmengine.model import PretrainedInit

    for init_cfg in (
        [
            dict(type='Constant', layer='Conv2d', val=3.0),
            dict(type='Pretrained', checkpoint=str(official / 'cls_m.pth')),
        ],
        dict(type=PretrainedInit, checkpoint=str(official / 'cls_m.pth')),
    ):
        net = IFormer('m', init_cfg=init_cfg)
        net.init_weights()
        golden_stem = golden.made_up('downsample_layers.0.0.c.weight', [24, 3, 5, 5])
        assert torch.equal(net.stem[0].conv.weight, golden_stem)


class Forged:
    """A dtype whose pickled state says that eight bytes are a reference to an object."""

    def __init__(self, code: str, state: tuple) -> None:
        self.code, self.state = code, state

    def __reduce__(self):
        return np.dtype, (self.code, False, True), self.state


class PlainArrayCall:
    """A call of ndarray that makes a reference to an object out of eight bytes."""

    def __reduce__(self):
        return np.ndarray, ((1,), 'O', b'12345678')


@pytest.mark.parametrize(
    'forged',
    [
        PlainArrayCall(),
        Forged('f8', (3, '<', None, ('a',), {'a': (np.dtype('O'), 0)}, 8, 8, 0)),
        Forged('O', (3, '|', None, None, None, -1, -1, 63)),
        Forged('V8', (3, '|', None, ('a',), {'a': (np.dtype('O'), 0)}, 8, 8, 0)),
    ],
)
def test_forged_numpy_types_are_refused(tmp_path, forged):
    torch.save(dict(state_dict={}, evil=forged), tmp_path / 'forged.pth')
    with pytest.raises(UserError, match=r'refused, because reading it would run code \(numpy\.'):
        read(tmp_path / 'forged.pth')


def test_load_report_names_what_was_found(official):
    report = translate(read(official / 'cls_m_distill.pth')).report()
    assert "the authors' names" in report and '540 tensors of the backbone' in report
    assert '14 of a classifier' in report and 'optimizer' in report and 'args' in report


def test_unbuilt_stages_are_left_out(official):
    net = IFormer(
        'm', out_indices=(0, 2), init_cfg=dict(type='Pretrained', checkpoint=str(official / 'cls_m.pth'))
    )
    net.init_weights()
    assert torch.equal(
        net.stem[0].conv.weight, golden.made_up('downsample_layers.0.0.c.weight', [24, 3, 5, 5])
    )


@pytest.mark.parametrize(
    ('file', 'arch', 'kwargs', 'words'),
    [
        ('cls_m.pth', 'l', {}, ["arch='l'", "arch 'm'", 'stages.2', 'cls_m.pth']),
        ('det_l.pth', 'm', {}, ["arch='m'", "arch 'l'", 'det_l.pth']),
        ('cls_m.pth', 'm', dict(layer_scale_init_value=1e-6), ['gamma', 'layer_scale_init_value']),
    ],
)
def test_another_network_is_an_error_that_names_both_sides(official, file, arch, kwargs, words):
    net = dense(arch, init_cfg=dict(type='Pretrained', checkpoint=str(official / file)), **kwargs)
    with pytest.raises(UserError) as error:
        net.init_weights()
    assert all(word in str(error.value) for word in words), str(error.value)
    assert '\n' not in str(error.value)


def test_a_parameter_left_without_weights_is_an_error_on_every_way_in(official, tmp_path):
    own = load(official / 'cls_m.pth')['state_dict']
    del own['backbone.stages.1.downsample.norm.weight']
    torch.save(dict(state_dict=own), tmp_path / 'holes.pth')

    class Whole(BaseModule):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

    for attempt in (
        lambda: dense(
            init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'holes.pth'))
        ).init_weights(),
        lambda: load_checkpoint(Whole(dense()), str(tmp_path / 'holes.pth')),
        lambda: Whole(dense()).load_state_dict(own, strict=False),
    ):
        with pytest.raises(UserError, match=r'stages\.1\.downsample\.norm\.weight is in the network and not'):
            attempt()


def test_a_file_of_another_kind_of_network(tmp_path):
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}), tmp_path / 'resnet.pth')
    with pytest.raises(UserError, match=r'resnet\.pth'):
        dense(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet.pth'))).init_weights()


@pytest.mark.parametrize('bomb', [Bomb, SubtleBomb])
@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, bomb, legacy):
    """Through each function of mmengine and ours that reads weights; the tools are tested with theirs."""
    mark, file = tmp_path / 'mark', tmp_path / 'bomb.pth'
    torch.save(
        dict(state_dict=golden.state_dict('det_m'), evil=bomb(mark)),
        file,
        _use_new_zipfile_serialization=not legacy,
    )
    # The file is live: an unsafe reader does run it, or hands out the function to call.
    unsafe = torch.load(file, weights_only=False)['evil']
    assert mark.is_dir() or 'HistoryBuffer' in unsafe
    if mark.is_dir():
        mark.rmdir()
    for attempt in (
        lambda: read(file),
        lambda: dense(init_cfg=dict(type='Pretrained', checkpoint=str(file))).init_weights(),
        lambda: load_checkpoint(dense(), str(file)),
        lambda: CheckpointLoader.load_checkpoint(str(file)),
    ):
        with pytest.raises(UserError, match='refused, because reading it would run code') as error:
            attempt()
        assert str(file) in str(error.value) and 'weights_only=False' in str(error.value)
        assert not mark.exists()


def test_other_schemes_of_mmengine_read_safely_too(tmp_path, monkeypatch):
    """The loaders of model zoos and object stores call module functions, which are replaced as well."""
    import mmengine.runner.checkpoint as module

    file = tmp_path / 'bomb.pth'
    torch.save(dict(state_dict={}, evil=Bomb(tmp_path / 'mark')), file)
    monkeypatch.setattr(module, 'get_torchvision_models', lambda: {'resnet50': 'https://example.org/x.pth'})
    monkeypatch.setattr('mmiformer.checkpoints.reading.fetch', lambda url, check: file)
    for name in ('torchvision://resnet50', 'https://example.org/x.pth'):
        with pytest.raises(UserError, match='would run code'):
            CheckpointLoader.load_checkpoint(name)
    if hasattr(module, '_safe_torch_load'):
        with pytest.raises(UserError, match='would run code'):
            module._safe_torch_load(str(file))
    assert not (tmp_path / 'mark').exists()


def test_honest_training_files_are_read(tmp_path):
    history = HistoryBuffer([0.5, 0.25], [2, 2])
    honest = dict(
        state_dict={'w': torch.ones(2)},
        args=argparse.Namespace(lr=0.1),
        numpy=dict(
            scalar=np.float32(1.5),
            integer=np.int64(3),
            array=np.arange(6.0).reshape(2, 3).T,
            flags=np.array([True, False]),
        ),
        message_hub=dict(log_scalars={'loss': history}),
    )
    torch.save(honest, tmp_path / 'honest.pth')
    back = read(tmp_path / 'honest.pth')
    assert back['args'].lr == 0.1 and back['numpy']['scalar'] == 1.5
    for key, value in honest['numpy'].items():
        assert np.array_equal(back['numpy'][key], value) and back['numpy'][key].dtype == value.dtype
    torch.save(back, tmp_path / 'again.pth')
    again = torch.load(tmp_path / 'again.pth', weights_only=False)['numpy']['array']
    assert type(again) is np.ndarray and np.array_equal(again, honest['numpy']['array'])
    assert back['message_hub']['log_scalars']['loss'].mean() == history.mean()


def ordered_dict_with_an_attribute() -> OrderedDict:
    value = OrderedDict(a=1)
    value.__dict__['__deepcopy__'] = 'anything'
    return value


def history_of_a_list() -> HistoryBuffer:
    history = HistoryBuffer([1.0], [1])
    history._log_history = [1.0]
    return history


@pytest.mark.parametrize(
    'disguised',
    [
        argparse.Namespace(__array_interface__=dict(shape=(1,), typestr='<i8', data=(1, False), version=3)),
        OrderedDict(inner=ordered_dict_with_an_attribute()),
        history_of_a_list(),
    ],
    ids=['namespace', 'dict', 'history'],
)
def test_plain_data_that_passes_for_more_is_refused(tmp_path, disguised):
    torch.save(dict(state_dict={}, evil=disguised), tmp_path / 'disguised.pth')
    with pytest.raises(UserError, match='refused, because reading it would run code'):
        read(tmp_path / 'disguised.pth')


def test_a_loss_history_cannot_replace_the_statistics_of_the_process(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    history._statistics_methods = {'mean': HistoryBuffer.max}
    torch.save(dict(log=history), tmp_path / 'history.pth')
    back = read(tmp_path / 'history.pth')['log']
    assert type(back) is HistoryBuffer and back.statistics('mean') == 2.0
    assert HistoryBuffer._statistics_methods['mean'] is HistoryBuffer.mean


def test_config_texts_in_a_checkpoint_are_not_run(tmp_path):
    """mmengine's resume and its inferencers run them as Python."""
    mark = tmp_path / 'mark'
    texts = [
        f'import os\nos.mkdir({str(mark)!r})',
        f"x = [].append(open({str(mark)!r}, 'w'))",
        "_base_ = 'x.py'",
    ]
    for text in texts:
        meta = dict(config=text, cfg=text, epoch=1)
        torch.save(dict(meta=meta, message_hub=dict(runtime_info=dict(cfg=text))), tmp_path / 'text.pth')
        back = read(tmp_path / 'text.pth')
        assert back == dict(meta=dict(epoch=1), message_hub=dict(runtime_info={})) and not mark.exists()
    honest = Config(dict(a=[1, -2.5, None], b=dict(type='X', c=(1, 'y')))).pretty_text
    torch.save(dict(meta=dict(cfg=honest)), tmp_path / 'honest.pth')
    assert read(tmp_path / 'honest.pth')['meta']['cfg'] == honest


def test_a_bare_backbone_takes_and_gives_whole_files_by_mmengine_too(official, tmp_path):
    net = IFormer('m')
    load_checkpoint(net, str(official / 'cls_m.pth'))
    torch.save(net.state_dict(), tmp_path / 'bare.pth')

    class Whole(BaseModule):
        def __init__(self):
            super().__init__()
            self.backbone = IFormer('m')

    whole = Whole()
    load_checkpoint(whole, str(tmp_path / 'bare.pth'), strict=True)
    assert torch.equal(whole.backbone.stem[0].conv.weight, net.stem[0].conv.weight)


@pytest.mark.parametrize('name', ['cut.pth', 'text.pth', 'empty.pth', 'text.safetensors', 'cut.safetensors'])
def test_damaged_files_are_named(tmp_path, name):
    file = tmp_path / name
    if name.startswith('cut'):
        whole = tmp_path / ('whole' + file.suffix)
        weights = {'stem.0.conv.weight': torch.randn(100, 100)}
        save = safetensors.torch.save_file if file.suffix == '.safetensors' else torch.save
        save(weights, whole)
        file.write_bytes(whole.read_bytes()[:20000])
    else:
        file.write_text('' if name.startswith('empty') else 'these are not weights\n' * 50)
    with pytest.raises(UserError, match='truncated, or not a checkpoint') as error:
        read(file)
    assert str(file) in str(error.value)


def test_missing_file_and_plain_http_are_refused(tmp_path):
    with pytest.raises(UserError, match=r'nowhere\.pth: no such checkpoint'):
        read(tmp_path / 'nowhere.pth')
    with pytest.raises(UserError, match='only fetched over https'):
        load('http://example.org/weights.pth')


def test_a_registry_built_model_keeps_the_sentence(official):
    cfg = dict(
        type='IFormer', arch='t', init_cfg=dict(type='Pretrained', checkpoint=str(official / 'cls_m.pth'))
    )
    with pytest.raises(UserError, match="arch 'm'"):
        MODELS.build(cfg).init_weights()
