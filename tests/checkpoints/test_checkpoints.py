import argparse
import pickle
import sys
import threading
import types
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import datetime, timezone
from pathlib import Path

import golden
import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import Bomb
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint, load_state_dict

from mmiformer import IFormer
from mmiformer.checkpoints import load_weights, read, translate
from mmiformer.checkpoints.unpickling import Ignored
from mmiformer.deploy import fold
from mmiformer.utils.errors import UserError


class SubtleBomb(Bomb):
    """Gets the globals of a module through getattr, which the OneDL line's list of allowed names permits."""

    def __reduce__(self):
        return getattr, (HistoryBuffer.update, '__globals__')


def dense(arch: str = 'm', **kwargs) -> IFormer:
    return IFormer(arch, out_indices=(0, 1, 2, 3), window_size=16, **kwargs)


@pytest.fixture(scope='module')
def official(tmp_path_factory) -> Path:
    """A folder with golden weights in the authors' formats."""
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
    own = translate(read(official / 'cls_m.pth').state_dict).state_dict
    bare = {k: v for k, v in reference.state_dict().items()}
    torch.save(golden.state_dict('cls_m'), tmp_path / 'bare_official.pth')
    torch.save({f'module.{k}': v for k, v in golden.state_dict('cls_m').items()}, tmp_path / 'ddp.pth')
    torch.save(dict(state_dict=own), tmp_path / 'own_detector.pth')
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
    own = translate(shapes).state_dict
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
def test_other_networks_are_not_changed(keys):
    weights = {k: torch.zeros(1) for k in keys}
    assert translate(weights).state_dict is weights and translate(weights).recognised is None


def test_mmengine_fills_a_bare_backbone_from_our_file(tmp_path):
    net = IFormer('t')
    net.init_weights()
    torch.save(net.state_dict(), tmp_path / 'bare.pth')
    other = IFormer('t')
    load_checkpoint(other, str(tmp_path / 'bare.pth'), strict=True)
    assert torch.equal(other.stem[0].conv.weight, net.stem[0].conv.weight)


def test_a_bare_file_of_a_custom_size(tmp_path):
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
def test_forged_numpy_types_are_not_built(tmp_path, forged):
    torch.save(dict(state_dict={'w': torch.ones(1)}, meta=forged), tmp_path / 'forged.pth')
    found = read(tmp_path / 'forged.pth').training['meta']
    assert isinstance(found, Ignored | str)


def test_load_report_names_what_was_found(official):
    checkpoint = read(official / 'cls_m_distill.pth')
    report = translate(checkpoint.state_dict).report()
    assert "the authors' names" in report and '540 tensors of the backbone' in report
    assert '14 of a classifier' in report


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


def test_a_parameter_without_weights_is_an_error(official, tmp_path):
    own = translate(read(official / 'cls_m.pth').state_dict).state_dict
    del own['backbone.stages.1.downsample.norm.weight']
    torch.save(dict(state_dict=own), tmp_path / 'holes.pth')

    class Detector(BaseModule):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

    for attempt in (
        lambda: dense(
            init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'holes.pth'))
        ).init_weights(),
        lambda: load_weights(Detector(dense()), tmp_path / 'holes.pth'),
        lambda: load_weights(Detector(dense()), tmp_path / 'holes.pth', strict=False),
    ):
        with pytest.raises(UserError, match=r'stages\.1\.downsample\.norm\.weight is missing in the weights'):
            attempt()
    missing = ['backbone.stages.1.downsample.norm.weight']
    assert Detector(dense()).load_state_dict(own, strict=False).missing_keys == missing, "torch's contract"


def test_a_file_of_another_kind_of_network(tmp_path):
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}), tmp_path / 'resnet.pth')
    with pytest.raises(UserError, match=r'resnet\.pth: the weights do not fit'):
        dense(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet.pth'))).init_weights()


@pytest.mark.parametrize('legacy', [False, True])
def test_getattr_is_not_called(tmp_path, legacy):
    file = tmp_path / 'bomb.pth'
    evil = dict(state_dict=golden.state_dict('det_m'), meta=SubtleBomb(tmp_path / 'mark'))
    torch.save(evil, file, _use_new_zipfile_serialization=not legacy)
    assert 'HistoryBuffer' in torch.load(file, weights_only=False)['meta'], 'torch.load returns the globals'
    assert isinstance(read(file).training['meta'], Ignored)


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, legacy):
    """By each function that reads weights."""
    mark, file = tmp_path / 'mark', tmp_path / 'bomb.pth'
    torch.save(
        dict(state_dict=golden.state_dict('det_m'), evil=Bomb(mark)),
        file,
        _use_new_zipfile_serialization=not legacy,
    )
    torch.load(file, weights_only=False)
    assert mark.is_dir(), 'the file does run code elsewhere'
    mark.rmdir()
    for attempt in (
        lambda: read(file),
        lambda: dense(init_cfg=dict(type='Pretrained', checkpoint=str(file))).init_weights(),
        lambda: load_weights(dense(), file),
    ):
        with pytest.raises(UserError, match='refused, because reading it would run code') as error:
            attempt()
        assert str(file) in str(error.value) and 'weights_only=False' in str(error.value)
        assert not mark.exists()


class Cfg(dict):
    """A class of a package for configs."""

    __module__ = 'yacs.config'
    __qualname__ = 'CfgNode'


def test_honest_training_files_are_read(tmp_path, monkeypatch):
    """With what training scripts save beside the weights."""
    package = types.ModuleType('yacs.config')
    package.CfgNode = Cfg
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', package)
    palette = [[1, 2, 3], [4, 5, 6]]
    honest = dict(
        state_dict={'w': torch.ones(2)},
        meta=dict(dataset_meta=dict(CLASSES=('a', 'b'), PALETTE=palette), time=datetime.now(timezone.utc)),
        args=argparse.Namespace(lr=0.1, path=Path('x'), run=uuid.uuid4()),
        cfg=Cfg(lr=0.1, inner=Cfg()),
        config=ConfigDict(lr=0.1),
        numpy=[np.float32(1.5), np.arange(6.0).reshape(2, 3).T, np.array(['a']), np.random.RandomState(0)],
        sets=[{1}, frozenset('a'), 1j, slice(1), range(3), defaultdict(list), Counter('aa'), deque([1])],
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([0.5, 0.25], [2, 2]))),
    )
    for protocol in range(2, 6):
        torch.save(honest, tmp_path / 'honest.pth', pickle_protocol=protocol)
        checkpoint = read(tmp_path / 'honest.pth')
        assert torch.equal(checkpoint.state_dict['w'], torch.ones(2))
        assert checkpoint.dataset_meta == dict(classes=('a', 'b'), palette=palette)


def test_a_best_score_of_numpy_is_a_number(tmp_path):
    scores = [np.float64(0.5), np.float32(0.25), np.int64(3)]
    torch.save(dict(state_dict={'w': torch.ones(1)}, meta=scores), tmp_path / 'x.pth')
    assert read(tmp_path / 'x.pth').training['meta'] == scores


WITH_ATTRIBUTE = torch.ones(2)
WITH_ATTRIBUTE.note = 'x'


@pytest.mark.parametrize(
    'weights',
    [
        dict(mask=torch.full((3, 3), -torch.inf)),
        dict(nan=torch.tensor([torch.nan])),
        dict(complex=torch.ones(2, dtype=torch.complex64)),
        dict(half=torch.ones(2, dtype=torch.float8_e5m2), flag=torch.tensor(True)),
        torch.nn.utils.spectral_norm(torch.nn.Linear(3, 3)).state_dict(),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 3)).state_dict(),
        torch.ao.quantization.MovingAverageMinMaxObserver().state_dict(),
        dict(sparse=torch.eye(3).to_sparse()),
        dict(quantised=torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)),
        dict.fromkeys('ab', torch.nn.Parameter(torch.ones(2))),
        dict(with_attribute=WITH_ATTRIBUTE),
    ],
    ids=lambda weights: ' '.join(weights),
)
@pytest.mark.parametrize('legacy', [False, True])
def test_weights_of_other_peoples_models(weights, tmp_path, legacy):
    if legacy and 'half' in weights:
        pytest.skip('torch itself cannot read what it wrote')
    torch.save(weights, tmp_path / 'x.pth', _use_new_zipfile_serialization=not legacy)
    expected = torch.load(tmp_path / 'x.pth', weights_only=True)
    found = read(tmp_path / 'x.pth').state_dict
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert (value.dtype, value.layout) == (expected[key].dtype, expected[key].layout)
        dense = [t.dequantize() if t.is_quantized else t.to_dense() for t in (value, expected[key])]
        dense = [t.float() if 'float8' in str(t.dtype) else t for t in dense]
        assert torch.equal(*(torch.view_as_real(t) if t.is_complex() else t.nan_to_num(7.0) for t in dense))


def test_files_of_ours_and_of_others_in_threads(tmp_path):
    """Reading a file changes no setting of the process."""
    torch.save({'w': torch.ones(2), 'x': argparse.Namespace(a=1)}, tmp_path / 'ours.pth')
    torch.save([torch.ones(2), np.float64(1)], tmp_path / 'foreign.pth')
    done = threading.Event()
    wrong = []

    def others() -> None:
        while not done.is_set():
            try:
                with torch.serialization.safe_globals(
                    [np.dtype, type(np.dtype('f8')), np._core.multiarray.scalar]
                ):
                    torch.load(tmp_path / 'foreign.pth', weights_only=True)
                torch.load(tmp_path / 'ours.pth', weights_only=True)
                wrong.append('a Namespace was allowed')
            except pickle.UnpicklingError as error:
                if 'argparse.Namespace' not in str(error):
                    wrong.append(str(error))

    thread = threading.Thread(target=others)
    thread.start()
    for _ in range(200):
        assert torch.equal(read(tmp_path / 'ours.pth').state_dict['w'], torch.ones(2))
    done.set()
    thread.join()
    assert not wrong


def test_weights_of_a_bare_backbone_fill_a_detector(official, tmp_path):
    net = IFormer('m')
    weights = golden.state_dict('cls_m')
    load_state_dict(net, weights)
    torch.save(net.state_dict(), tmp_path / 'bare.pth')

    class Detector(BaseModule):
        def __init__(self):
            super().__init__()
            self.backbone = IFormer('m')

    detector = Detector()
    load_weights(detector, tmp_path / 'bare.pth')
    assert torch.equal(detector.backbone.stem[0].conv.weight, net.stem[0].conv.weight)


@pytest.mark.parametrize('name', ['cut.pth', 'text.pth', 'empty.pth', 'text.safetensors', 'cut.safetensors'])
def test_damaged_files_are_named(tmp_path, name):
    file = tmp_path / name
    if name.startswith('cut'):
        original = tmp_path / ('original' + file.suffix)
        weights = {'stem.0.conv.weight': torch.randn(100, 100)}
        save = safetensors.torch.save_file if file.suffix == '.safetensors' else torch.save
        save(weights, original)
        file.write_bytes(original.read_bytes()[:20000])
    else:
        file.write_text('' if name.startswith('empty') else 'these are not weights\n' * 50)
    with pytest.raises(UserError, match='truncated, or not a checkpoint') as error:
        read(file)
    assert str(file) in str(error.value)


def test_missing_file_and_plain_http_are_refused(tmp_path):
    with pytest.raises(UserError, match=r'nowhere\.pth: no such checkpoint'):
        read(tmp_path / 'nowhere.pth')
    with pytest.raises(UserError, match='only downloaded over https'):
        read('http://example.org/weights.pth')


def test_a_model_built_by_the_registry_keeps_the_message(official):
    cfg = dict(
        type='IFormer', arch='t', init_cfg=dict(type='Pretrained', checkpoint=str(official / 'cls_m.pth'))
    )
    with pytest.raises(UserError, match="arch 'm'"):
        MODELS.build(cfg).init_weights()
