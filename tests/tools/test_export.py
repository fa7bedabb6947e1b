from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmiformer.deploy.comparing import Difference, normalise, real_images

CONFIG = 'configs/classification/iformer_t_in1k.py'
SMALL = ('--size', '64', '96')


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / 'images'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ('b.png', 'a.JPG'):
        cv2.imwrite(str(folder / name), cv2.resize(rng.integers(0, 256, (9, 7, 3), np.uint8), (70, 90)))
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture(autouse=True)
def _onnx() -> None:
    for module in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(module)


def test_a_classifier_is_written_compared_and_described(run_tool, root, workplace, images):
    code, out, err = run_tool(
        'export',
        root / CONFIG,
        '--to',
        'onnx',
        *SMALL,
        '--images',
        images,
        '--bake-input',
        '--out',
        'net.onnx',
    )
    assert code == 0, err
    import onnxruntime

    session = onnxruntime.InferenceSession('net.onnx')
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ('image', 'tensor(uint8)', [1, 64, 96, 3])
    assert [o.name for o in session.get_outputs()] == ['logits']
    assert 'largest rank: 4' in out and ' Conv' in out and '2 images of' in out
    assert not list(Path().glob('*.part*'))


def test_a_segmentor_for_all_sizes(run_tool, root, workplace):
    code, out, err = run_tool(
        'export',
        root / 'configs/segmentation/fpn_iformer_t_ade20k.py',
        *('--to', 'onnx', *SMALL, '--dynamic'),
        *('--cfg-options', 'model.backbone.init_cfg=None'),
    )
    assert code == 0, err
    assert 'noise of 97x131' in out and 'No real images at hand' in out
    assert Path('fpn_iformer_t_ade20k-fp32.onnx').is_file()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--size', '16', '64'), '--size 16 64: expected at least 32 32'),
        (('--channel-chunks', '0'), '--channel-chunks 0: expected 1 or more'),
        (('--channel-chunks', '16'), 'has no windows to cut'),
        (('--out', 'net.pth'), 'expected a name that ends in .onnx'),
        (('--out', 'nowhere/net.onnx'), 'its folder does not exist'),
        (('--precision', 'fp4'), '--precision fp4: onnx is written in fp32, fp16, int8'),
        (('--precision', 'int8'), 'needs --calibrate FOLDER'),
        (('--calibrate', 'no_folder'), 'no_folder: no images in it'),
    ],
)
def test_faults_are_one_sentence(run_tool, root, workplace, options, words):
    code, _, err = run_tool('export', root / CONFIG, '--to', 'onnx', *options)
    assert code == 1 and words in err and 'Traceback' not in err


def test_a_checkpoint_of_another_config_and_a_broken_image_are_told(run_tool, root, workplace, images):
    torch.save(dict(state_dict={'backbone.stem.0.conv.weight': torch.zeros(1)}), 'other.pth')
    code, _, err = run_tool('export', root / CONFIG, 'other.pth', '--to', 'onnx', *SMALL)
    assert code == 1 and 'other.pth' in err and 'Traceback' not in err
    (images / 'c.jpg').write_bytes(b'broken')
    code, _, err = run_tool('export', root / CONFIG, '--to', 'onnx', *SMALL, '--images', images)
    assert code == 1 and 'c.jpg: cannot be read as an image' in err and 'Traceback' not in err


def test_a_file_that_computes_something_else_is_an_error(run_tool, root, workplace, monkeypatch):
    from mmiformer.deploy.runtimes import RUNTIMES

    def off(file: Path, threads: int | None = None):
        return lambda image: [np.zeros((1, 1000), np.float32)]

    monkeypatch.setattr(RUNTIMES['onnx'], 'open', off)
    code, _, err = run_tool('export', root / CONFIG, '--to', 'onnx', *SMALL)
    assert code == 1 and 'logits differ from PyTorch by more than fp32 may' in err


def test_differences_are_told_by_kind():
    values = Difference('maps')
    values.add(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    assert values.l2 == pytest.approx(0.5 / (9 + 4.5**2) ** 0.5)
    assert values.cosine == pytest.approx((9 + 18) / (5 * (9 + 4.5**2) ** 0.5))
    assert [values.within(p) for p in ('fp32', 'bf16', 'int8')] == [False, False, True]
    labels = Difference('labels')
    labels.add(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))
    assert labels.equal == 0.75 and not labels.within('int8')
    shape = Difference('maps')
    shape.add(np.zeros(3), np.zeros(4))
    assert not any(shape.within(p) for p in ('fp32', 'int8'))
    nan = Difference('maps')
    nan.add(np.array([np.nan, 1.0]), np.array([1.0, 1.0]))
    assert not any(nan.within(p) for p in ('fp32', 'int8'))


def test_images_are_resized_and_normalised_as_the_config_does(images):
    preprocessor = dict(mean=[1.0, 2.0, 3.0], std=[2.0, 4.0, 8.0], to_rgb=True)
    pixels = real_images(images, (40, 50), preprocessor, pixels=True, count=5)
    assert [tuple(p.shape) for p in pixels] == [(1, 40, 50, 3)] * 2 and pixels[0].dtype == torch.uint8
    first = cv2.resize(cv2.imread(str(images / 'a.JPG'))[:, :, ::-1], (50, 40))
    np.testing.assert_array_equal(pixels[0][0].numpy(), first)
    rgb = normalise(pixels, preprocessor)[0]
    np.testing.assert_allclose(rgb[0, 1], (first[:, :, 1] - 2.0) / 4.0, rtol=1e-6)
    bgr = normalise(pixels, dict(preprocessor, to_rgb=False))[0]
    np.testing.assert_allclose(bgr[0, 0], (first[:, :, 2] - 1.0) / 2.0, rtol=1e-6)
