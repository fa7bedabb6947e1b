import numpy as np
import pytest
import torch
from helpers import SMALL_IFORMER as SMALL
from helpers import trained_looking
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmiformer import IFormer, MoCoViT
from mmiformer.deploy import split_depthwise
from mmiformer.deploy.rtmdet import RTMDetWrapper
from mmiformer.deploy.runtimes.base import ExportOptions
from mmiformer.deploy.runtimes.coreml import CoreML
from mmiformer.deploy.runtimes.executorch import ExecuTorch
from mmiformer.deploy.runtimes.litert import LiteRT
from mmiformer.deploy.runtimes.ncnn import NCNN
from mmiformer.deploy.wrappers import Features, FromPixels, Logits
from mmiformer.utils.errors import UserError

PREPROCESSOR = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
# For int8 and pixel inputs.
SMALLER = dict(SMALL, depths=((1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 0)))


def iformer(arch='t') -> Features:
    return Features(trained_looking(IFormer(arch, out_indices=(0, 1, 2, 3), window_size=16)))


def mocovit() -> Features:
    """Keeps one block of each kind."""
    network = MoCoViT(out_indices=(0, 1, 2, 3))
    for stage, kept in ((2, (0, 4)), (3, (0, 1, 2))):
        blocks = network.stages[stage].blocks
        network.stages[stage].blocks = nn.ModuleList(blocks[i] for i in kept)
    return Features(trained_looking(network))


def classifier() -> Logits:
    pytest.importorskip('mmpretrain')
    from mmpretrain.models import ImageClassifier

    init_default_scope('mmpretrain')

    head = dict(type='mmiformer.models.heads.NormLinearClsHead', in_channels=64, num_classes=5)
    return Logits(trained_looking(ImageClassifier(backbone=dict(type='IFormer', arch=SMALLER), head=head)))


def reference(wrapper, image: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        return [output.numpy() for output in wrapper(image)]


def difference(outputs, expected) -> float:
    """The largest relative L2 difference."""
    pairs = list(zip(outputs, expected, strict=True))
    assert [a.shape for a, _ in pairs] == [b.shape for _, b in pairs]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def coreml_ranks(file) -> set[int]:
    import coremltools as ct

    functions = ct.models.MLModel(str(file), skip_model_load=True).get_spec().mlProgram.functions
    blocks = [function.block_specializations[function.opset] for function in functions.values()]
    operations = [o for block in blocks for o in block.operations if not o.type.startswith('const')]
    return {output.type.tensorType.rank for operation in operations for output in operation.outputs}


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('size', [(96, 128), (97, 131)])
def test_executorch_delegates_the_graph_to_xnnpack(tmp_path, size, capfd):
    pytest.importorskip('executorch')
    wrapper, image, runtime = iformer(SMALL), torch.randn(1, 3, *size), ExecuTorch()
    runtime.require()
    capfd.readouterr()
    file = tmp_path / 'net.pte'
    runtime.export(wrapper, ExportOptions(image), file)
    assert capfd.readouterr() == ('', '')
    session = runtime.open(file, threads=1)
    for layout in (torch.contiguous_format, torch.channels_last):
        outputs = session(image.to(memory_format=layout).numpy())
        assert difference(outputs, reference(wrapper, image)) < 1e-4
    assert runtime.inspect(file) == {'XnnpackBackend': 1}
    assert names(tmp_path) == ['net.pte']


def test_executorch_splits_depthwise_convolutions(tmp_path, monkeypatch):
    pytest.importorskip('executorch')
    wrapper = nn.Sequential(nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.GELU())
    image = torch.randn(1, 8, 20, 23)
    split = nn.Sequential(*wrapper)
    split_depthwise(split)
    torch.testing.assert_close(split(image), wrapper(image), rtol=1e-5, atol=1e-6)
    split_models = []

    def record(model: nn.Module) -> None:
        split_models.append(model)
        split_depthwise(model)

    monkeypatch.setattr('mmiformer.deploy.runtimes.executorch.split_depthwise', record)
    runtime, file = ExecuTorch(), tmp_path / 'net.pte'
    runtime.export(wrapper, ExportOptions(image), file)
    assert difference(runtime.open(file)(image.numpy()), [wrapper(image).detach().numpy()]) < 1e-5
    assert split_models


def test_executorch_int8_is_close_to_the_network(tmp_path):
    pytest.importorskip('executorch')
    size = (97, 131)  # Its windows are padded.
    wrapper, image, runtime = iformer(SMALLER), torch.randn(1, 3, *size), ExecuTorch()
    file = tmp_path / 'net.pte'
    with pytest.raises(UserError, match='--calibrate'):
        runtime.check(ExportOptions(image, precision='int8'))
    calibration = [torch.randn(1, 3, *size) for _ in range(4)]
    options = ExportOptions(image, precision='int8', calibration=calibration)
    runtime.check(options)
    runtime.export(wrapper, options, file)
    outputs = runtime.open(file)(image.numpy())
    assert difference(outputs, reference(wrapper, image)) < 0.2
    assert runtime.inspect(file)['XnnpackBackend'] >= 1


def test_executorch_mocovit_and_logits(tmp_path):
    pytest.importorskip('executorch')
    image, runtime, file = torch.randn(1, 3, 96, 128), ExecuTorch(), tmp_path / 'net.pte'
    for wrapper in (mocovit(), classifier()):
        runtime.export(wrapper, ExportOptions(image), file)
        assert difference(runtime.open(file)(image.numpy()), reference(wrapper, image)) < 1e-4
        assert runtime.inspect(file)['XnnpackBackend'] == 1


@pytest.mark.parametrize('size', [(96, 128), (97, 131), (288, 270)])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_ncnn_with_one_and_several_windows(tmp_path, size, precision, capfd):
    pytest.importorskip('ncnn')
    wrapper, image, runtime = iformer(SMALL), torch.randn(1, 3, *size), NCNN()
    runtime.require()
    file = tmp_path / 'net.param'
    runtime.export(wrapper, ExportOptions(image, precision=precision), file)
    assert capfd.readouterr() == ('', '')
    outputs = runtime.open(file, threads=1)(image.numpy())
    error = difference(outputs, reference(wrapper, image))
    assert error < (1e-4 if precision == 'fp32' else 1e-2)
    assert precision == 'fp32' or error > 1e-6, 'was computed in fp32'
    assert names(tmp_path) == ['net.bin', 'net.param']


def test_ncnn_mocovit_logits_and_pixels(tmp_path):
    pytest.importorskip('ncnn')
    runtime, file = NCNN(), tmp_path / 'net.param'
    image = torch.randn(1, 3, 97, 131)
    for wrapper in (mocovit(), classifier()):
        runtime.export(wrapper, ExportOptions(image), file)
        assert difference(runtime.open(file)(image.numpy()), reference(wrapper, image)) < 1e-4
    pixels = torch.randint(0, 256, (1, 97, 131, 3), dtype=torch.uint8)
    for to_rgb in (True, False):
        baked = FromPixels(iformer(SMALLER), dict(PREPROCESSOR, bgr_to_rgb=to_rgb))
        runtime.export(baked, ExportOptions(pixels), file)
        assert difference(runtime.open(file)(pixels.numpy()), reference(baked, pixels)) < 1e-4


def test_ncnn_refuses_unsupported_operators_and_batches(tmp_path):
    pytest.importorskip('ncnn')

    class Sorted(nn.Module):
        def forward(self, x):
            return (x.sort(dim=1).values,)

    with pytest.raises(UserError, match='ncnn: cannot convert .*no layer for'):
        NCNN().export(Sorted(), ExportOptions(torch.randn(1, 3, 8, 8)), tmp_path / 'net.param')
    assert names(tmp_path) == [], 'a partial file'
    with pytest.raises(UserError, match='one image at a time'):
        NCNN().export(nn.GELU(), ExportOptions(torch.randn(2, 3, 64, 64)), tmp_path / 'net.param')


@pytest.mark.parametrize('precision', ['fp32', 'int8'])
def test_litert_of_pixels(tmp_path, precision):
    for module in LiteRT.modules:
        pytest.importorskip(module)
    wrapper, runtime, file = FromPixels(iformer(SMALLER), PREPROCESSOR), LiteRT(), tmp_path / 'net.tflite'
    images = [torch.randint(0, 256, (1, 97, 131, 3), dtype=torch.uint8) for _ in range(4)]
    runtime.export(wrapper, ExportOptions(images[0], precision=precision, calibration=images), file)
    session = runtime.open(file, threads=1)
    assert session.size == (97, 131) and session.pixels
    error = difference(session(images[0].numpy()), reference(wrapper, images[0]))
    assert error < (1e-4 if precision == 'fp32' else 0.2)


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
def test_coreml_has_attention_as_one_operator_and_no_rank_above_4(tmp_path, precision, capfd):
    pytest.importorskip('coremltools')
    runtime, file, options = CoreML(), tmp_path / 'net.mlpackage', ExportOptions(torch.randn(1, 3, 97, 131))
    runtime.require()
    capfd.readouterr()
    options = ExportOptions(options.example, precision=precision)
    runtime.check(options)
    for _ in range(2 if precision == 'fp32' else 1):  # The second replaces the first.
        runtime.export(iformer(SMALL), options, file)
    assert capfd.readouterr() == ('', '')
    operators = runtime.inspect(file)
    assert operators['scaled_dot_product_attention'] == 3
    assert 'matmul' not in operators
    assert max(coreml_ranks(file)) == 4
    assert names(tmp_path) == ['net.mlpackage']
    size = sum(part.stat().st_size for part in file.rglob('weight.bin'))
    parameters = sum(p.numel() for p in iformer(SMALL).parameters())
    assert size < dict(fp32=4.1, fp16=2.1, int8=1.3)[precision] * parameters


def test_coreml_mocovit_logits_and_pixels(tmp_path):
    ct = pytest.importorskip('coremltools')
    runtime, file = CoreML(), tmp_path / 'net.mlpackage'
    image = torch.randn(1, 3, 96, 128)
    pixels = torch.randint(0, 256, (1, 96, 128, 3), dtype=torch.uint8)
    for wrapper, example in (
        (mocovit(), image),
        (classifier(), image),
        (FromPixels(iformer(SMALLER), PREPROCESSOR), pixels),
    ):
        runtime.export(wrapper, ExportOptions(example), file)
        assert max(coreml_ranks(file)) == 4
        description = ct.models.MLModel(str(file), skip_model_load=True).get_spec().description
        assert [output.name for output in description.output] == list(wrapper.outputs)
    assert description.input[0].type.WhichOneof('Type') == 'imageType'


@pytest.mark.parametrize('runtime', [ExecuTorch(), LiteRT(), CoreML(), NCNN()])
def test_candidates_of_rtmdet_ins(tmp_path, root, runtime):
    for module in runtime.modules:
        pytest.importorskip(module)
    init_default_scope('mmdet')
    cfg = Config.fromfile(root / 'configs/detection/rtmdetins_iformer_t_coco.py').model
    cfg.backbone.update(init_cfg=None, arch=SMALLER)
    cfg.neck.update(in_channels=list(SMALLER['dims'][1:]), out_channels=32)
    cfg.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=3)
    wrapper = RTMDetWrapper(trained_looking(MODELS.build(cfg))).without_suppression(runtime.candidates and 50)
    image, file = torch.randn(1, 3, 96, 128), tmp_path / f'net{runtime.suffix}'
    runtime.export(wrapper, ExportOptions(image), file)
    if not runtime.runs_here:
        assert runtime.inspect(file)['topk'] == 1
        return
    session = runtime.open(file, threads=1)
    assert session.size == (96, 128) and not session.pixels
    assert difference(session(image.numpy()), reference(wrapper, image)) < 1e-4


@pytest.mark.parametrize('runtime', [ExecuTorch(), LiteRT(), CoreML(), NCNN()])
def test_missing_runtimes_and_unsupported_options_are_errors(runtime, monkeypatch):
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(
        UserError, match=f'--precision fp8: {runtime.name} does not support it; choose from fp32'
    ):
        runtime.check(ExportOptions(image, precision='fp8'))
    if not runtime.dynamic:
        with pytest.raises(UserError, match='files for .* have one size'):
            runtime.check(ExportOptions(image, dynamic=True))
    for module in {m.split('.')[0] for m in runtime.modules}:
        monkeypatch.setitem(__import__('sys').modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'mmiformer\[{runtime.name}\]'"):
        runtime.require()


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / 'net.param'
    file.write_text('old')

    def fail(wrapper, options, file):
        file.write_text('half')
        raise RuntimeError

    runtime = NCNN()
    monkeypatch.setattr(runtime, 'write', fail)
    with pytest.raises(UserError, match='cannot convert'):
        runtime.export(nn.Identity(), ExportOptions(torch.zeros(1)), file)
    assert file.read_text() == 'old'
    assert names(tmp_path) == ['net.param']
