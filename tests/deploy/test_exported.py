"""Exported files as models; here a session runs the network itself, in PyTorch."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL_IFORMER, trained_looking
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmiformer.deploy.exported import ExportedModel, fit_images, open_exported
from mmiformer.deploy.runtimes import RUNTIMES, Session
from mmiformer.deploy.wrappers import FromPixels, build_export_wrapper
from mmiformer.utils.errors import UserError


def model_of(root: Path, name: str) -> tuple:
    cfg = Config.fromfile(root / f'configs/{name}.py')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(init_cfg=None, arch=SMALL_IFORMER)
    dims = [SMALL_IFORMER['dims'][i] for i in cfg.model.backbone.get('out_indices', [3])]
    if name.startswith('det'):
        cfg.model.neck.in_channels = dims
        cfg.model.test_cfg.score_thr = 0
    elif name.startswith('seg'):
        cfg.model.decode_head.update(in_channels=dims, norm_cfg=dict(type='BN'))
    else:
        cfg.model.head.in_channels = dims[-1]
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    return cfg.model.data_preprocessor, trained_looking(MODELS.build(cfg.model))


def exported(preprocessor, model, size: tuple, runtime: str, pixels: bool) -> ExportedModel:
    runtime = RUNTIMES[runtime]
    wrapper = runtime.suited(build_export_wrapper(model, 'model'))
    network = FromPixels(wrapper, preprocessor) if pixels else wrapper
    images = []

    def run(image):
        images.append(image)
        with torch.no_grad():
            return [output.numpy() for output in network(torch.from_numpy(image))]

    session = Session(run, (1, *size, 3) if pixels else (1, 3, *size), pixels)
    found = ExportedModel(model, runtime, session, preprocessor)
    found.images = images
    return found


def data_of(kind: str, height: int = 64, width: int = 64) -> dict:
    package = dict(det='mmdet', seg='mmseg', cla='mmpretrain')[kind]
    structures = pytest.importorskip(f'{package}.structures')
    sample = dict(mmdet='DetDataSample', mmseg='SegDataSample', mmpretrain='DataSample')[package]
    meta = dict(
        img_shape=(height, width),
        ori_shape=(2 * height, 2 * width),
        scale_factor=(0.5, 0.5),
        img_path='a.jpg',
    )
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return dict(
        inputs=[pixels], data_samples=[getattr(structures, sample)(metainfo=dict(meta, img_path='a.jpg'))]
    )


@pytest.mark.parametrize(('runtime', 'pixels'), [('onnx', False), ('ncnn', True)])
def test_predictions_equal_those_of_the_model(root, runtime, pixels):
    for name in (
        'detection/rtmdetins_iformer_t_coco',
        'segmentation/lraspp_iformer_t_ade20k',
        'classification/iformer_t_in1k',
    ):
        preprocessor, model = model_of(root, name)
        file = exported(preprocessor, model, (64, 64), runtime, pixels)
        data = data_of(name[:3])
        with torch.no_grad():
            expected, found = (m.test_step(copy.deepcopy(data))[0] for m in (model, file))
        assert [image.shape for image in file.images] == [(1, 64, 64, 3) if pixels else (1, 3, 64, 64)]
        if name.startswith('det'):
            found, expected = found.pred_instances, expected.pred_instances
            assert len(found) == 100
            torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
            assert (found.masks == expected.masks).float().mean() > 0.98
        elif name.startswith('seg'):
            found, expected = found.pred_sem_seg.data, expected.pred_sem_seg.data
            assert found.shape == expected.shape == (1, 128, 128)
            assert (found == expected).float().mean() > 0.9
        else:
            torch.testing.assert_close(found.pred_score, expected.pred_score)
            assert found.pred_label == expected.pred_label


def test_images_are_padded_to_the_size_of_the_file(root):
    preprocessor, model = model_of(root, 'detection/rtmdetins_iformer_t_coco')
    file = exported(preprocessor, model, (96, 128), 'ncnn', pixels=False)
    (sample,) = file.test_step(data_of('det', 70, 100))
    assert [image.shape for image in file.images] == [(1, 3, 96, 128)]
    assert sample.pred_instances.masks.shape[1:] == (140, 200)
    assert (sample.pred_instances.bboxes.max(dim=0).values <= torch.tensor([200, 140, 200, 140])).all()
    with pytest.raises(UserError, match='a.jpg: the file takes 96x128, the test pipeline gives 97x100'):
        file.test_step(data_of('det', 97, 100))


@pytest.mark.parametrize(
    'pad', [dict(size=(640, 640)), dict(size_divisor=32), dict(pad_to_square=True), None]
)
def test_padding_has_the_colour_of_the_pipeline(root, pad):
    from mmdet.registry import TRANSFORMS

    name = 'detection/rtmdetins_iformer_t_coco'
    preprocessor, model = model_of(root, name)
    cfg = Config.fromfile(root / f'configs/{name}.py')
    resize = dict(type='Resize', scale=(640, 640), keep_ratio=True)
    colour = dict(type='Pad', pad_val=dict(img=(114, 114, 114)), **(pad or {}))
    cfg.test_dataloader.dataset.pipeline = [resize, *([colour] if pad else [])]
    fit_images(cfg, (96, 128))
    results = dict(img=np.full((60, 100, 3), 200, np.uint8), img_shape=(60, 100))
    for step in cfg.test_dataloader.dataset.pipeline:
        results = TRANSFORMS.build(step)(results)
    inputs = dict(
        data_of('det', *results['img_shape']), inputs=[torch.from_numpy(results['img']).permute(2, 0, 1)]
    )
    file = exported(preprocessor, model, (96, 128), 'ncnn', pixels=True)
    file.test_step(inputs)
    (image,) = file.images
    assert image.shape == (1, 96, 128, 3) and (image[0, :76] == 200).all()
    # Without a step that pads, the preprocessor adds zeros to the normalised image.
    assert (image[0, 77:] == ((114, 114, 114) if pad else (124, 116, 104))).all()


def test_files_that_cannot_be_evaluated_are_errors(tmp_path):
    with pytest.raises(UserError, match=r'net.bin: no such file; name a file that tools/export.py wrote'):
        (tmp_path / 'net.param').touch()
        open_exported(tmp_path / 'net.param')
    (tmp_path / 'net.mlpackage').mkdir()
    with pytest.raises(UserError, match='coreml does not run on this machine'):
        open_exported(tmp_path / 'net.mlpackage')
    pytest.importorskip('onnxruntime')
    (tmp_path / 'net.onnx').write_bytes(b'broken')
    with pytest.raises(UserError, match='net.onnx: not a file that onnx can read; export it again'):
        open_exported(tmp_path / 'net.onnx')
