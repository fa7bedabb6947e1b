import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import SMALL_IFORMER

from mmiformer.deploy.comparing import Difference, compare, image_files, real_images
from mmiformer.deploy.wrappers import ExportWrapper, FromPixels

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


def test_classifier_to_onnx(run_tool, root, workplace, images):
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
    assert ' Conv' in out and '2 images of' in out
    assert not list(Path().glob('.export-*'))


def small_classifier(root, tmp_path) -> str:
    """A config, and its data set of six images."""
    rng = np.random.default_rng(0)
    for number in range(6):
        file = tmp_path / f'val/{"ab"[number % 2]}/{number}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), rng.integers(0, 256, (70, 80, 3), np.uint8))
    model = dict(
        data_preprocessor=dict(num_classes=2),
        backbone=dict(arch=dict(SMALL_IFORMER, _delete_=True)),
        head=dict(num_classes=2, in_channels=SMALL_IFORMER['dims'][-1], topk=(1,)),
    )
    loader = dict(
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            type='mmiformer.datasets.classification.CheckedFolderDataset',
            data_root=str(tmp_path),
            metainfo=dict(classes=('a', 'b')),
            pipeline=[
                dict(type='LoadCheckedImage'),
                dict(type='CenterCrop', crop_size=64),
                dict(type='PackInputs'),
            ],
        ),
    )
    return (
        f'_base_ = {str(root / CONFIG)!r}\nmodel = {model}\n'
        f'test_dataloader = {loader}\ntest_evaluator = dict(topk=(1,))\n'
    )


def test_file_is_evaluated_beside_pytorch(run_tool, root, workplace, tmp_path):
    Path('small_classifier.py').write_text(small_classifier(root, tmp_path))
    options = ('--to', 'onnx', '--size', 64, 64, '--bake-input', '--out', 'small.onnx', '--evaluate')
    code, out, err = run_tool('export', 'small_classifier.py', *options)
    assert code == 0, err
    (row,) = (line.split('│')[1:4] for line in out.splitlines() if 'accuracy/top1' in line)
    assert row[1].strip() == row[2].strip() and 'On 6 images' in out
    assert 'No CHECKPOINT: the file has the weights that training starts from' in out
    code, _, err = run_tool('test', 'small_classifier.py', 'small.onnx', '--out', 'small.json', '--limit', 5)
    assert code == 0, err
    result = json.loads(Path('small.json').read_text())
    assert result['images'] == 5 and result['metrics']['accuracy/top1'] in range(0, 101, 20)
    code, _, err = run_tool('test', 'small_classifier.py', 'small.onnx', '--compile')
    assert code == 1 and 'small.onnx: an exported file runs as it is; remove --tta and --compile' in err


def test_pytorch_is_evaluated_as_the_config_has_it(run_tool, root, workplace, tmp_path, monkeypatch):
    """A crop of 64 of images of 70 x 80 differs from the whole image in a file of 32 x 32."""
    from mmiformer.apis.inference import ModelPredictor

    sizes = []
    original = ModelPredictor.__call__

    def seen(self, images, score_thr=0.0):
        sizes.append(self._pipeline(dict(img=images[0], img_path='', ori_shape=(70, 80)))['inputs'].shape[1:])
        return original(self, images, score_thr)

    monkeypatch.setattr(ModelPredictor, '__call__', seen)
    Path('small_classifier.py').write_text(small_classifier(root, tmp_path))
    options = ('--to', 'onnx', '--size', 32, 32, '--out', 'smaller.onnx', '--evaluate', '--count', 2)
    code, out, err = run_tool('export', 'small_classifier.py', *options)
    assert code == 0 and '2 images of the test data set' in out, err
    assert sizes == [(32, 32)] * 2 + [(64, 64)] * 6


def test_run_with_its_checkpoint_and_a_step_that_apps_cannot_repeat(run_tool, root, workplace, tmp_path):
    from mmengine.config import Config

    from mmiformer.apis.inference import bare_model

    run = tmp_path / 'work_dirs/lr_0.01'
    run.mkdir(parents=True)
    changes = (
        "test_dataloader['dataset']['pipeline'][1] = dict(type='RandomFlip', prob=0.0)\n"
        "test_dataloader['dataset'].update(data_prefix='', ann_file='val.txt')\n"
    )
    (run / 'config.py').write_text(small_classifier(root, tmp_path) + changes)
    (tmp_path / 'val.txt').write_text('val/a/0.png 0\nval/b/1.png 1\nval/a/2.png 0\n')
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train/broken.png').write_text('of no test image')
    model = bare_model(Config.fromfile(run / 'config.py'))
    torch.nn.init.constant_(model.head.heads[0].linear.bias, 1e6)
    torch.save(dict(state_dict=model.state_dict()), run / 'best_accuracy_top1_epoch_1.pth')
    code, _, err = run_tool('export', run / 'config.py', '--to', 'onnx', '--evaluate')
    assert code == 1 and 'RandomFlip is no step of resizing, cropping or padding' in err
    code, out, err = run_tool('export', run / 'config.py', '--to', 'onnx')
    assert code == 0, err
    import onnxruntime

    file = 'lr_0.01-fp32-onnx.onnx'
    (logits,) = onnxruntime.InferenceSession(file).run(
        None, {'image': np.zeros((1, 3, 224, 224), np.float32)}
    )
    assert logits.min() > 1e5 and 'No CHECKPOINT' not in out
    assert f'{file}: stored without metadata. test_dataloader.dataset.pipeline: RandomFlip' in out
    assert '3 images of the test data set' in out and 'logits' in out
    words = 'The file takes images of 224x224, the size of the test pipeline; --size H W changes it.'
    assert words in out


def test_int8_is_calibrated_on_images_as_the_file_sees_them(run_tool, root, workplace, tmp_path, monkeypatch):
    from mmiformer.deploy.runtimes import RUNTIMES
    from mmiformer.utils.errors import UserError

    def export(wrapper, options, file) -> None:
        held.append(options.calibration)
        raise UserError('enough')

    held = []
    monkeypatch.setattr(RUNTIMES['onnx'], 'export', export)
    Path('small_classifier.py').write_text(small_classifier(root, tmp_path))
    options = ('--to', 'onnx', '--size', 64, 64, '--precision', 'int8', '--bake-input')
    code, *_ = run_tool('export', 'small_classifier.py', *options, '--calibrate', tmp_path, '--count', 1)
    expected = cv2.imread(str(tmp_path / 'val/a/0.png'))[3:67, 8:72, ::-1]
    assert code == 1 and (held[0][0][0].numpy() == expected).all()


def test_size_is_a_multiple_of_what_mmseg_pads_to(run_tool, root, workplace):
    config = root / 'configs/segmentation/fpn_iformer_t_ade20k.py'
    settings = ('model.backbone.init_cfg=None', 'model.data_preprocessor.test_cfg.size_divisor=32')
    options = ('--to', 'onnx', '--precision', 'int8', '--cfg-options', *settings)
    code, out, _ = run_tool('export', config, '--size', 60, 90, *options)
    assert code == 1 and 'The file takes images of 64x96, --size, rounded up to multiples of 32.' in out
    code, _, err = run_tool('export', config, '--size', 0, 90, *options)
    assert code == 1 and '--size 0 90: expected at least 1 pixel each' in err


def test_segmentor_of_dynamic_size(run_tool, root, workplace):
    config = root / 'configs/segmentation/fpn_iformer_t_ade20k.py'
    backbone = dict(arch=dict(SMALL_IFORMER, _delete_=True), init_cfg=None)
    model = dict(backbone=backbone, neck=dict(in_channels=[*SMALL_IFORMER['dims']]))
    Path('small_segmentor.py').write_text(f'_base_ = {str(config)!r}\nmodel = {model}\n')
    code, out, err = run_tool('export', 'small_segmentor.py', '--to', 'onnx', *SMALL, '--dynamic')
    assert code == 0, err
    assert 'noise of 4x97x131' in out and 'No real images: compared on noise only' in out
    assert 'The file takes' not in out
    assert Path('small_segmentor-fp32-onnx.onnx').is_file()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--out', 'net.pth'), 'onnx files end in .onnx'),
        (('--precision', 'fp4'), '--precision fp4: onnx does not support it; choose from fp32, fp16, int8'),
        (('--precision', 'int8'), 'name some with --calibrate FOLDER'),
        (('--precision', 'int8', '--calibrate', 'no_folder'), 'no_folder: no images found'),
    ],
)
def test_unsupported_options_are_errors(run_tool, root, workplace, options, words):
    code, _, err = run_tool('export', root / CONFIG, '--to', 'onnx', *options)
    assert code == 1 and words in err and 'Traceback' not in err


@pytest.mark.parametrize(
    ('config', 'runtime', 'words'),
    [
        (
            'retinanet_mocovit_coco',
            'ncnn',
            'RetinaNet: suppresses boxes in the network, which this runtime cannot',
        ),
    ],
)
def test_detectors_that_cannot_be_exported_so_are_errors(run_tool, root, workplace, config, runtime, words):
    pytest.importorskip(runtime if runtime == 'ncnn' else 'onnx')
    config = root / f'configs/detection/{config}.py'
    options = ('--size', 64, 100, '--cfg-options', 'model.backbone.init_cfg=None')
    code, _, err = run_tool('export', config, '--to', runtime, *options)
    assert code == 1 and words in err and 'Traceback' not in err


def test_mismatched_checkpoint_and_broken_image_are_errors(run_tool, root, workplace, images):
    torch.save(dict(state_dict={'backbone.stem.0.conv.weight': torch.zeros(1)}), 'other.pth')
    code, _, err = run_tool('export', root / CONFIG, 'other.pth', '--to', 'onnx', *SMALL)
    assert code == 1 and 'other.pth' in err and 'Traceback' not in err
    (images / 'a_folder.jpg').mkdir()
    for name, content in (('c.jpg', b'broken'), ('b_empty.jpg', b''), ('a_dangling.jpg', None)):
        if content is None:
            (images / name).symlink_to('nowhere.jpg')
        else:
            (images / name).write_bytes(content)
        code, _, err = run_tool('export', root / CONFIG, '--to', 'onnx', *SMALL, '--images', images)
        assert code == 1 and f'{images / name}: ' in err and 'Traceback' not in err


def test_different_outputs_are_an_error(run_tool, root, workplace, monkeypatch):
    from mmiformer.deploy.runtimes import RUNTIMES

    def off(file: Path, threads: int | None = None):
        return lambda image: [np.zeros((1, 1000), np.float32)]

    monkeypatch.setattr(RUNTIMES['onnx'], 'open', off)
    code, _, err = run_tool('export', root / CONFIG, '--to', 'onnx', *SMALL)
    assert code == 1 and 'logits differ from PyTorch by more than fp32 may' in err


def test_differences_by_output():
    values = Difference('maps')
    values.add(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    assert values.amount == pytest.approx(0.5 / (9 + 4.5**2) ** 0.5)
    assert [values.within(p) for p in ('fp32', 'bf16', 'int8')] == [False, False, True]
    labels = Difference('labels')
    labels.add(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5]))
    assert labels.amount == 0.25 and not labels.within('int8')
    for got in (torch.zeros(3), torch.tensor([float('nan'), 1.0])):
        other = Difference('maps')
        other.add(got, torch.ones(2))
        assert not any(other.within(p) for p in ('fp32', 'int8'))


def test_images_are_resized_and_normalised_as_the_config_does(images):
    preprocessor = dict(mean=[1.0, 2.0, 3.0], std=[2.0, 4.0, 8.0], to_rgb=True)
    pixels = real_images(image_files(images, 5), (40, 50))
    assert [tuple(p.shape) for p in pixels] == [(1, 40, 50, 3)] * 2 and pixels[0].dtype == torch.uint8
    first = cv2.resize(cv2.imread(str(images / 'a.JPG'))[:, :, ::-1], (50, 40))
    np.testing.assert_array_equal(pixels[0][0].numpy(), first)
    wrapper = ExportWrapper(torch.nn.Identity())
    wrapper.outputs = ()
    rgb = FromPixels(wrapper, preprocessor).normalise(pixels[0])
    np.testing.assert_allclose(rgb[0, 1], (first[:, :, 1] - 2.0) / 4.0, rtol=1e-6)
    bgr = FromPixels(wrapper, dict(preprocessor, to_rgb=False)).normalise(pixels[0])
    np.testing.assert_allclose(bgr[0, 0], (first[:, :, 2] - 1.0) / 2.0, rtol=1e-6)


def test_images_are_taken_from_the_whole_folder(tmp_path):
    for number in range(6):
        file = tmp_path / 'ab'[number // 3] / f'{number}.png'
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), np.full((4, 4, 3), number, np.uint8))
    for count, expected in ((1, [0]), (2, [0, 3]), (4, [0, 1, 3, 4]), (9, [0, 1, 2, 3, 4, 5])):
        assert [int(file.stem) for file in image_files(tmp_path, count)] == expected


def test_weights_of_another_runtime_are_kept(run_tool, root, workplace):
    Path('net.bin').write_bytes(b'of net.xml')
    code, _, err = run_tool('export', root / CONFIG, '--to', 'openvino', *SMALL, '--out', 'net.xml')
    assert code == 1 and 'net.bin belongs to another file' in err
    assert Path('net.bin').read_bytes() == b'of net.xml'


@pytest.mark.parametrize(
    'overrides',
    [('model.test_cfg.mode=slide',), ('model.decode_head.out_channels=1', 'model.decode_head.num_classes=2')],
)
def test_unsupported_segmentors_are_errors(run_tool, root, workplace, overrides):
    config = root / 'configs/segmentation/fpn_iformer_t_ade20k.py'
    options = ('model.backbone.init_cfg=None', *overrides)
    code, _, err = run_tool('export', config, '--to', 'onnx', *SMALL, '--cfg-options', *options)
    assert code == 1 and 'expected one decode_head' in err


def test_masks_and_number_of_detections_are_compared():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (4, 2)).astype(np.float32)
    found = dict(
        boxes=np.concatenate([corners, corners + 9], 1),
        labels=np.arange(4),
        scores=rng.uniform(0.4, 0.9, 4).astype(np.float32),
        masks=rng.uniform(size=(4, 28, 28)) > 0.5,
    )

    def judge(change, found=found) -> Difference:
        (difference,) = compare(lambda _: found, lambda _: change(found), [None])
        return difference

    fine = judge(lambda found: {name: part[::-1] for name, part in found.items()})
    assert fine.amount == 0 and fine.count == 4 and fine.within('fp32')
    assert judge(lambda found: dict(found, scores=found['scores'] + [0, 0.01, 0, 0])).amount == 0.25
    masks = found['masks'].copy()
    masks[1, :2] ^= True
    assert judge(lambda found: dict(found, masks=masks)).amount == 0.25
    missing = judge(lambda found: {name: part[1:] for name, part in found.items()})
    assert missing.amount == 0.25 and not missing.within('fp32')
    none = {name: part[:0] for name, part in found.items()}
    assert judge(lambda found: found, none).count == 0


def test_no_detections_verify_nothing(run_tool, root, workplace):
    config = root / 'configs/detection/retinanet_mocovit_coco.py'
    options = ('--cfg-options', 'model.backbone.init_cfg=None')
    code, out, err = run_tool('export', config, '--to', 'onnx', *SMALL, *options)
    assert code == 0, err
    assert 'NOT verified: nothing was detected' in out


def test_int8_is_judged_on_real_images_only(run_tool, root, workplace, images, monkeypatch):
    from mmiformer.deploy.runtimes import RUNTIMES

    runtime, right = RUNTIMES['onnx'], {}

    def export(wrapper, options, file) -> None:
        file.touch()
        right['wrapper'] = wrapper

    def off_on_noise(file: Path, threads: int | None = None):
        def run(image: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                outputs = [o.numpy() for o in right['wrapper'](torch.from_numpy(image))]
            return outputs if image.shape[0] == 1 and image.shape[2:] == (64, 96) else [-o for o in outputs]

        return run

    monkeypatch.setattr(runtime, 'export', export)
    monkeypatch.setattr(runtime, 'open', off_on_noise)
    monkeypatch.setattr(runtime, 'inspect', lambda file: Counter())
    code, out, err = run_tool(
        'export', root / CONFIG, '--to', 'onnx', *SMALL,
        '--precision', 'int8', '--calibrate', images, '--dynamic',
    )  # fmt: skip
    assert code == 0 and '2 images of' in out, err
