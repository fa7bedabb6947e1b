from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import SMALL_IFORMER

from mmiformer.deploy.comparing import Difference, compare, normalise, real_images
from mmiformer.deploy.runtimes import Graph

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
    assert not list(Path().glob('.export-*'))


def test_a_segmentor_for_all_sizes(run_tool, root, workplace):
    config = root / 'configs/segmentation/fpn_iformer_t_ade20k.py'
    backbone = dict(arch=dict(SMALL_IFORMER, _delete_=True), init_cfg=None)
    model = dict(backbone=backbone, neck=dict(in_channels=[*SMALL_IFORMER['dims']]))
    Path('small_segmentor.py').write_text(f'_base_ = {str(config)!r}\nmodel = {model}\n')
    code, out, err = run_tool('export', 'small_segmentor.py', '--to', 'onnx', *SMALL, '--dynamic')
    assert code == 0, err
    assert 'noise of 4x97x131' in out and 'No real images at hand' in out
    assert Path('small_segmentor-fp32-onnx.onnx').is_file()


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
        (('--precision', 'int8', '--calibrate', 'no_folder'), 'no_folder: no such folder'),
        (('--calibrate', 'no_folder'), 'fp32 for onnx takes no ranges from images'),
        (('--count', '0'), '--count 0: expected 1 or more'),
        (('--out', 'a_folder.onnx'), 'a_folder.onnx is a folder'),
    ],
)
def test_faults_are_one_sentence(run_tool, root, workplace, options, words):
    kept = Path('a_folder.onnx/kept.txt')
    kept.parent.mkdir(exist_ok=True)
    kept.touch()
    code, _, err = run_tool('export', root / CONFIG, '--to', 'onnx', *options)
    assert code == 1 and words in err and 'Traceback' not in err
    assert kept.is_file()


def test_a_checkpoint_of_another_config_and_a_broken_image_are_told(run_tool, root, workplace, images):
    torch.save(dict(state_dict={'backbone.stem.0.conv.weight': torch.zeros(1)}), 'other.pth')
    code, _, err = run_tool('export', root / CONFIG, 'other.pth', '--to', 'onnx', *SMALL)
    assert code == 1 and 'other.pth' in err and 'Traceback' not in err
    (images / 'a_folder.jpg').mkdir()  # is no image
    for name, content in (('c.jpg', b'broken'), ('b_empty.jpg', b''), ('a_dangling.jpg', None)):
        if content is None:
            (images / name).symlink_to('nowhere.jpg')
        else:
            (images / name).write_bytes(content)
        code, _, err = run_tool('export', root / CONFIG, '--to', 'onnx', *SMALL, '--images', images)
        assert code == 1 and f'{images / name}: ' in err and 'Traceback' not in err


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


def test_weights_of_another_runtime_are_kept(run_tool, root, workplace):
    Path('net.bin').write_bytes(b'of net.xml')
    code, _, err = run_tool('export', root / CONFIG, '--to', 'openvino', *SMALL, '--out', 'net.xml')
    assert code == 1 and 'net.bin belongs to another file' in err
    assert Path('net.bin').read_bytes() == b'of net.xml'


@pytest.mark.parametrize(
    'overrides',
    [('model.test_cfg.mode=slide',), ('model.decode_head.out_channels=1', 'model.decode_head.num_classes=2')],
)
def test_segmentors_that_the_label_map_would_be_wrong_for(run_tool, root, workplace, overrides):
    config = root / 'configs/segmentation/fpn_iformer_t_ade20k.py'
    options = ('model.backbone.init_cfg=None', *overrides)
    code, _, err = run_tool('export', config, '--to', 'onnx', *SMALL, '--cfg-options', *options)
    assert code == 1 and 'whole segmentors are exported with one decode_head' in err


class Detections:
    """Stands for a program of a detector."""

    outputs = ('boxes', 'labels', 'scores', 'masks')

    def __init__(self, count: int) -> None:
        corners = torch.rand(count, 2) * 50
        masks = torch.rand(count, 28, 28)
        self.found = torch.cat([corners, corners + 9], 1), torch.arange(count), torch.rand(count), masks

    def __call__(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.found


def test_masks_and_numbers_of_detections_count():
    program, image = Detections(4), torch.zeros(1, 3, 32, 32)

    def judge(change) -> Difference:
        arrays = [part.numpy().copy() for part in program.found]
        change(arrays)
        (difference,) = compare(program, lambda _: arrays, [image])
        return difference

    fine = judge(lambda parts: [np.copyto(p, p[::-1].copy()) for p in parts])
    assert fine.equal == 1 and fine.detections == 4 and fine.within('fp32')
    assert judge(lambda parts: parts[3][1].fill(np.nan)).equal == 0.75
    assert judge(lambda parts: parts[3][1].__iadd__(0.01)).equal == 0.75
    missing = judge(lambda parts: parts.__setitem__(slice(None), [p[1:] for p in parts]))
    assert missing.equal == 0.75 and not missing.within('fp32')
    program = Detections(0)
    assert judge(lambda parts: None).detections == 0


def test_a_detector_that_finds_nothing_is_not_verified(run_tool, root, workplace):
    config = root / 'configs/detection/retinanet_mocovit_coco.py'
    options = ('--cfg-options', 'model.backbone.init_cfg=None')
    code, out, err = run_tool('export', config, '--to', 'onnx', *SMALL, *options)
    assert code == 0, err
    assert 'NOT verified: nothing was detected' in out and '100.000%' not in out


def test_int8_is_judged_on_real_images_alone(run_tool, root, workplace, images, monkeypatch):
    from mmiformer.deploy.runtimes import RUNTIMES

    runtime, right = RUNTIMES['onnx'], {}

    def export(program, order, file) -> None:
        file.touch()
        right['program'] = program

    def off_on_noise(file: Path, threads: int | None = None):
        def run(image: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                outputs = [o.numpy() for o in right['program'](torch.from_numpy(image))]
            return outputs if image.max() < 3 else [-o for o in outputs]

        return run

    monkeypatch.setattr(runtime, 'export', export)
    monkeypatch.setattr(runtime, 'open', off_on_noise)
    monkeypatch.setattr(runtime, 'inspect', lambda file: Graph())
    code, out, err = run_tool(
        'export', root / CONFIG, '--to', 'onnx', *SMALL,
        '--precision', 'int8', '--calibrate', images, '--dynamic',
    )  # fmt: skip
    assert code == 0 and '2 images of' in out, err
