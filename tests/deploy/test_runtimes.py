from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL_IFORMER, trained_looking

from mmiformer import IFormer
from mmiformer.deploy.runtimes import RUNTIMES, ExportOptions, open_exported
from mmiformer.deploy.wrappers import Features, FromPixels
from mmiformer.utils.errors import UserError

# Large enough that weights dominate the size of a file.
ARCH = dict(SMALL_IFORMER, dims=(32, 64, 128, 128))
SIZES = [(1, 3, 224, 224), (4, 3, 97, 131), (2, 3, 33, 500), (1, 3, 256, 320), (1, 3, 32, 32)]


def relative(a: np.ndarray, b: torch.Tensor) -> float:
    return float(np.linalg.norm(a - b.numpy()) / b.norm())


@pytest.fixture(scope='module')
def wrapper() -> Features:
    return Features(trained_looking(IFormer('t', out_indices=(0, 1, 2, 3), window_size=16)))


@pytest.fixture(scope='module')
def small_wrapper() -> Features:
    torch.manual_seed(0)
    return Features(trained_looking(IFormer(ARCH, out_indices=(0, 1, 2, 3), window_size=16)))


@pytest.fixture(scope='module', params=['onnx', 'openvino'])
def plain(request, small_wrapper, tmp_path_factory) -> tuple[str, int]:
    """A runtime, and the size of its fp32 files of the small network."""
    require(request.param)
    runtime, folder = RUNTIMES[request.param], tmp_path_factory.mktemp('fp32')
    runtime.export(small_wrapper, ExportOptions(torch.zeros(1, 3, 64, 96)), folder / f'net{runtime.suffix}')
    return request.param, size_of(folder)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob('net.*'))


def require(name: str) -> None:
    for module in RUNTIMES[name].modules:
        pytest.importorskip(module)


@pytest.mark.parametrize('name', ['onnx', 'openvino'])
def test_dynamic_file_runs_at_all_sizes(tmp_path, wrapper, name):
    require(name)
    runtime = RUNTIMES[name]
    file = tmp_path / f'net{runtime.suffix}'
    runtime.export(wrapper, ExportOptions(torch.zeros(1, 3, 224, 224), dynamic=True), file)
    session = runtime.open(file, threads=1)
    for size in SIZES:
        image = torch.randn(size)
        with torch.no_grad():
            expected = wrapper(image)
        got = session(image.numpy())
        assert [a.shape for a in got] == [tuple(b.shape) for b in expected]
        assert max(map(relative, got, expected)) < 1e-5
    if name == 'onnx':
        import onnx

        assert max(len(v.type.tensor_type.shape.dim) for v in onnx.load(file).graph.value_info) == 4
    operators = runtime.inspect(file)
    # T's 74, and one more in each of its 5 attentions, which folding splits into values and gate.
    assert sum(count for kind, count in operators.items() if 'Convol' in kind or kind == 'Conv') == 74 + 5
    assert not any('::' in kind for kind in operators), 'standard operators only'


@pytest.mark.parametrize(('precision', 'bound'), [('fp16', 1e-2), ('bf16', 3e-2), ('int8', 0.2)])
def test_lower_precisions_are_close_and_smaller(tmp_path, small_wrapper, plain, precision, bound):
    name, fp32_size = plain
    runtime, wrapper = RUNTIMES[name], small_wrapper
    if precision not in runtime.precisions:
        pytest.skip(f'{name} has none')
    images = [torch.rand(1, 3, 64, 96) * 2 - 1 for _ in range(4)]
    file = tmp_path / f'net{runtime.suffix}'
    options = ExportOptions(images[0], precision=precision, calibration=images)
    runtime.check(options)
    runtime.export(wrapper, options, file)
    with torch.no_grad():
        expected = wrapper(images[0])
    got = runtime.open(file, threads=1)(images[0].numpy())
    errors = list(map(relative, got, expected))
    assert max(errors) < bound
    if precision != 'bf16' or 'bf16' in torch.backends.cpu.get_cpu_capability():
        assert max(errors) > 1e-6, 'computed in fp32'
    assert size_of(tmp_path) < fp32_size * (1.1 if precision == 'bf16' else 0.6)
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('flipped', [False, True])
def test_pixels_are_normalised(wrapper, flipped):
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    preprocessor = dict(mean=mean, std=std, bgr_to_rgb=True)
    image = torch.randint(0, 256, (1, 40, 50, 3), dtype=torch.uint8)
    pixels = image.double()
    if flipped:  # The network takes BGR, and so do mean and std.
        preprocessor = dict(mean=mean[::-1], std=std[::-1], bgr_to_rgb=False)
        expected = (pixels.flip(3) - torch.tensor(mean[::-1])) / torch.tensor(std[::-1])
    else:
        expected = (pixels - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        got = FromPixels(wrapper, preprocessor)(image)
        wanted = wrapper(expected.permute(0, 3, 1, 2).float())
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_unsupported_options_are_errors(monkeypatch):
    runtime = RUNTIMES['onnx']
    example = torch.zeros(1, 3, 64, 64)
    with pytest.raises(UserError, match='bf16: onnx does not support it; choose from fp32, fp16, int8'):
        runtime.check(ExportOptions(example, precision='bf16'))
    with pytest.raises(UserError, match='int8: needs images to calibrate on; name some with --calibrate'):
        runtime.check(ExportOptions(example, precision='int8'))
    monkeypatch.setattr(runtime, 'dynamic', False)
    with pytest.raises(UserError, match='--dynamic: files for onnx have one size'):
        runtime.check(ExportOptions(example, dynamic=True))
    monkeypatch.setattr(runtime, 'modules', ('no_such_module',))
    with pytest.raises(UserError, match=r"cannot import no_such_module .*pip install 'mmiformer\[onnx\]'"):
        runtime.require()


def test_files_that_cannot_be_evaluated_are_errors(tmp_path):
    with pytest.raises(UserError, match=r'net.bin: no such file; name a file that tools/export.py wrote'):
        (tmp_path / 'net.param').touch()
        open_exported(tmp_path / 'net.param')
    (tmp_path / 'net.mlpackage').mkdir()
    with pytest.raises(UserError, match='coreml does not run on this machine; use the onnx file'):
        open_exported(tmp_path / 'net.mlpackage')
    with pytest.raises(UserError, match=r'net.pth: not the name of an exported file; they end in .onnx'):
        open_exported(tmp_path / 'net.pth')
    pytest.importorskip('onnxruntime')
    (tmp_path / 'net.onnx').write_bytes(b'broken')
    with pytest.raises(UserError, match='net.onnx: not a file that onnx can read; export it again'):
        open_exported(tmp_path / 'net.onnx')
