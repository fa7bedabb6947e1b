import numpy as np
import pytest
import torch
from helpers import SMALL_IFORMER as SMALL
from helpers import trained_looking
from mmengine.registry import init_default_scope
from torch import nn

from mmiformer import IFormer, MoCoViT
from mmiformer.deploy import split_depthwise
from mmiformer.deploy.runtimes.base import ExportOptions
from mmiformer.deploy.runtimes.converting import staged
from mmiformer.deploy.runtimes.coreml import CoreML
from mmiformer.deploy.runtimes.executorch import ExecuTorch
from mmiformer.deploy.runtimes.ncnn import NCNN
from mmiformer.deploy.wrappers import Features, FromPixels, Logits
from mmiformer.utils.errors import UserError

PREPROCESSOR = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
# To quantise, and where what is around a network matters.
SMALLER = dict(SMALL, depths=((1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 0)))


def iformer(arch='t') -> Features:
    return Features(trained_looking(IFormer(arch, out_indices=(0, 1, 2, 3), window_size=16)))


def mocovit() -> Features:
    """With those of its blocks left out that come again."""
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


def reference(program, image: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        return [output.numpy() for output in program(image)]


def difference(outputs, expected) -> float:
    """The largest relative L2 difference."""
    pairs = list(zip(outputs, expected, strict=True))
    assert [a.shape for a, _ in pairs] == [b.shape for _, b in pairs]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('size', [(96, 128), (97, 131)])
def test_executorch_takes_an_iformer_as_one_piece(tmp_path, size, capfd):
    pytest.importorskip('executorch')
    program, image, runtime = iformer(SMALL), torch.randn(1, 3, *size), ExecuTorch()
    runtime.require()
    capfd.readouterr()
    file = tmp_path / 'net.pte'
    runtime.export(program, ExportOptions(image), file)
    assert capfd.readouterr() == ('', '')
    session = runtime.open(file, threads=1)
    for layout in (torch.contiguous_format, torch.channels_last):
        outputs = session(image.to(memory_format=layout).numpy())
        assert difference(outputs, reference(program, image)) < 1e-4
    graph = runtime.inspect(file)
    assert graph.largest_rank == 4
    assert graph.operators['XnnpackBackend'] == 1
    assert all(name.startswith('XnnpackBackend') for name in graph.operators)
    assert names(tmp_path) == ['net.pte']


def test_executorch_split_computes_the_same(tmp_path):
    pytest.importorskip('executorch')
    # What of a network is split, without the rest.
    program = nn.Sequential(nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.GELU())
    image = torch.randn(1, 8, 20, 23)
    split = nn.Sequential(*program)
    split_depthwise(split)
    torch.testing.assert_close(split(image), program(image), rtol=1e-5, atol=1e-6)
    runtime, file = ExecuTorch(), tmp_path / 'net.pte'
    runtime.export(program, ExportOptions(image), file)
    assert difference(runtime.open(file)(image.numpy()), [program(image).detach().numpy()]) < 1e-5
    assert runtime.inspect(file).operators['XnnpackBackend: DepthwiseConv2d'] == 3


def test_executorch_keeps_the_threads_of_what_is_loaded(tmp_path):
    pytest.importorskip('executorch')
    runtime, file, image = ExecuTorch(), tmp_path / 'net.pte', torch.randn(1, 3, 32, 32)
    runtime.export(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU()), ExportOptions(image), file)
    session = runtime.open(file, threads=1)
    with pytest.raises(RuntimeError, match='another number of threads'):
        ExecuTorch().open(file, threads=2)
    runtime.open(file, threads=1)
    del session
    assert runtime.open(file, threads=2)(image.numpy())[0].shape == (1, 8, 30, 30)


def test_executorch_int8_resembles_the_network(tmp_path):
    pytest.importorskip('executorch')
    program, image, runtime = iformer(SMALLER), torch.randn(1, 3, 97, 131), ExecuTorch()
    file, order = tmp_path / 'net.pte', ExportOptions(image, precision='int8')
    with pytest.raises(UserError, match='--calibrate'):
        runtime.check(order)
    order = ExportOptions(image, precision='int8', calibration=[torch.randn(1, 3, 97, 131) for _ in range(4)])
    runtime.check(order)
    runtime.export(program, order, file)
    outputs = runtime.open(file)(image.numpy())
    for a, b in zip(outputs, reference(program, image), strict=True):
        assert float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)) > 0.98
    assert runtime.inspect(file).operators['XnnpackBackend'] >= 1


def test_executorch_mocovit_and_logits(tmp_path):
    pytest.importorskip('executorch')
    image, runtime, file = torch.randn(1, 3, 96, 128), ExecuTorch(), tmp_path / 'net.pte'
    for program in (mocovit(), classifier()):
        runtime.export(program, ExportOptions(image), file)
        assert difference(runtime.open(file)(image.numpy()), reference(program, image)) < 1e-4
        assert runtime.inspect(file).largest_rank <= 4
        assert runtime.inspect(file).operators['XnnpackBackend'] == 1


@pytest.mark.parametrize('size', [(96, 128), (97, 131), (288, 270)])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_ncnn_computes_the_same_with_one_and_several_windows(tmp_path, size, precision, capfd):
    pytest.importorskip('ncnn')
    program, image, runtime = iformer(SMALL), torch.randn(1, 3, *size), NCNN()
    runtime.require()
    file = tmp_path / 'net.param'
    runtime.export(program, ExportOptions(image, precision=precision), file)
    assert capfd.readouterr() == ('', '')
    outputs = runtime.open(file, threads=1)(image.numpy())
    error = difference(outputs, reference(program, image))
    assert error < (1e-4 if precision == 'fp32' else 1e-2)
    assert precision == 'fp32' or error > 1e-6, 'was computed in fp32'
    assert names(tmp_path) == ['net.bin', 'net.param']


def test_ncnn_mocovit_logits_and_pixels(tmp_path):
    pytest.importorskip('ncnn')
    runtime, file = NCNN(), tmp_path / 'net.param'
    image = torch.randn(1, 3, 97, 131)
    for program in (mocovit(), classifier()):
        runtime.export(program, ExportOptions(image), file)
        assert difference(runtime.open(file)(image.numpy()), reference(program, image)) < 1e-4
    pixels = torch.randint(0, 256, (1, 97, 131, 3), dtype=torch.uint8)
    for to_rgb in (True, False):
        baked = FromPixels(iformer(SMALLER), dict(PREPROCESSOR, bgr_to_rgb=to_rgb))
        runtime.export(baked, ExportOptions(pixels), file)
        assert difference(runtime.open(file)(pixels.numpy()), reference(baked, pixels)) < 1e-4


def test_ncnn_tells_what_it_has_not(tmp_path):
    pytest.importorskip('ncnn')

    class Sorted(nn.Module):
        def forward(self, x):
            return (x.sort(dim=1).values,)

    with pytest.raises(UserError, match='ncnn: has no layer for'):
        NCNN().export(Sorted(), ExportOptions(torch.randn(1, 3, 8, 8)), tmp_path / 'net.param')
    assert names(tmp_path) == [], 'nothing half-written'
    with pytest.raises(UserError, match='one image at a time'):
        NCNN().check(ExportOptions(torch.randn(2, 3, 64, 64)))


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
def test_coreml_has_attention_as_one_operator_and_no_rank_above_4(tmp_path, precision, capfd):
    pytest.importorskip('coremltools')
    runtime, file, order = CoreML(), tmp_path / 'net.mlpackage', ExportOptions(torch.randn(1, 3, 97, 131))
    runtime.require()
    capfd.readouterr()
    order = ExportOptions(order.example, precision=precision)
    runtime.check(order)
    for _ in range(2 if precision == 'fp32' else 1):  # The second time it stands in its own place.
        runtime.export(iformer(SMALL), order, file)
    assert capfd.readouterr() == ('', '')
    graph = runtime.inspect(file)
    assert graph.operators['scaled_dot_product_attention'] == 3
    assert 'matmul' not in graph.operators
    assert graph.largest_rank == 4
    assert names(tmp_path) == ['net.mlpackage']
    size = sum(part.stat().st_size for part in file.rglob('weight.bin'))
    parameters = sum(p.numel() for p in iformer(SMALL).parameters())
    assert size < dict(fp32=4.1, fp16=2.1, int8=1.3)[precision] * parameters
    if not runtime.runs_here:
        with pytest.raises(UserError, match='runs on Macs and iPhones only'):
            runtime.open(file)


def test_coreml_mocovit_logits_and_pixels(tmp_path):
    ct = pytest.importorskip('coremltools')
    runtime, file = CoreML(), tmp_path / 'net.mlpackage'
    image = torch.randn(1, 3, 96, 128)
    pixels = torch.randint(0, 256, (1, 96, 128, 3), dtype=torch.uint8)
    for program, example in (
        (mocovit(), image),
        (classifier(), image),
        (FromPixels(iformer(SMALLER), PREPROCESSOR), pixels),
    ):
        runtime.export(program, ExportOptions(example), file)
        assert runtime.inspect(file).largest_rank == 4
        description = ct.models.MLModel(str(file), skip_model_load=True).get_spec().description
        assert [output.name for output in description.output] == list(program.outputs)
    assert description.input[0].type.WhichOneof('Type') == 'imageType'


@pytest.mark.parametrize('runtime', [ExecuTorch(), CoreML(), NCNN()])
def test_absent_runtimes_and_orders_they_do_not_take(runtime, monkeypatch):
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(UserError, match=f'--precision fp8: {runtime.name} is written in fp32'):
        runtime.check(ExportOptions(image, precision='fp8'))
    if not runtime.dynamic:
        with pytest.raises(UserError, match='files for .* have one size'):
            runtime.check(ExportOptions(image, dynamic=True))
    for module in {m.split('.')[0] for m in runtime.modules}:
        monkeypatch.setitem(__import__('sys').modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'mmiformer\[{runtime.name}\]'"):
        runtime.require()


def test_a_failed_export_leaves_what_was_there(tmp_path):
    file = tmp_path / 'net.param'
    file.write_text('old')
    with pytest.raises(RuntimeError), staged(file) as folder:
        (folder / file.name).write_text('half')
        raise RuntimeError
    assert file.read_text() == 'old'
    with staged(file) as folder:
        (folder / file.name).write_text('new')
    assert file.read_text() == 'new'
    assert names(tmp_path) == ['net.param']
    blocker = tmp_path / 'a_file'
    blocker.write_text('')
    with pytest.raises(UserError, match='cannot be written'), staged(blocker / 'net.param'):
        pass
