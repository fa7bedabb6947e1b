"""Metadata of exported files: with them, numpy alone predicts what mm's own pipeline and model predict."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import SMALL_IFORMER, trained_looking
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from mmiformer.apis.inference import ModelPredictor, resize_by_rule
from mmiformer.datasets.checks import dataset_meta
from mmiformer.deploy import build_export_wrapper, metadata, postprocess
from mmiformer.deploy.comparing import match_detections
from mmiformer.deploy.fitting import fit_images, size_of_images
from mmiformer.deploy.runtimes import RUNTIMES
from mmiformer.deploy.wrappers import FromPixels
from mmiformer.utils.errors import UserError


def small(root: Path, name: str) -> Config:
    cfg = Config.fromfile(root / f'configs/{name}.py')
    cfg.model.backbone.update(init_cfg=None, arch=SMALL_IFORMER)
    dims = [SMALL_IFORMER['dims'][i] for i in cfg.model.backbone.get('out_indices', [3])]
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (128, 96) if name.startswith('seg') else (96, 96)
        if step.type == 'Pad':
            step.size = (96, 96)
        if step.type == 'ResizeEdge':
            step.scale = 80
        if step.type == 'CenterCrop':
            step.crop_size = 64
    if name.startswith('det'):
        cfg.model.neck.in_channels = dims
        cfg.model.bbox_head.num_classes = 2  # Fewer candidates than nms_pre, which mmdet counts by level.
        cfg.model.test_cfg.score_thr = 0
    elif name.startswith('seg'):
        cfg.model.decode_head.update(in_channels=dims, norm_cfg=dict(type='BN'))
    else:
        cfg.model.head.in_channels = dims[-1]
    return cfg


def photo(height: int, width: int) -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    'name',
    [
        'detection/rtmdetins_iformer_t_coco',
        'segmentation/lraspp_iformer_t_ade20k',
        'classification/iformer_t_in1k',
    ],
)
def test_predictions_equal_those_of_the_model(root, name):
    cfg = small(root, name)
    init_default_scope(cfg.default_scope)
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    model = trained_looking(MODELS.build(dict(cfg.model, data_preprocessor=preprocessor)))
    model.dataset_meta = dataset_meta(cfg, 'test')
    for conv in model.bbox_head.rtm_reg if name.startswith('det') else ():
        conv.bias.data.fill_(2)  # Untrained boxes have nearly no area.
    for (runtime, pixels), shape in zip(
        (('onnx', False), ('ncnn', True)), ((60, 90), (150, 110)), strict=True
    ):
        wrapper = RUNTIMES[runtime].suited(build_export_wrapper(model, 'model'))
        # The whole pipeline is that of the file: also one that is not square, for an upright image.
        size = ((96, 96) if name.startswith('cla') else (96, 128)) if pixels else None
        fit_images(cfg, size)
        model.data_preprocessor.test_cfg = preprocessor.get('test_cfg')
        predictor = ModelPredictor(model, cfg)
        info = metadata.describe(cfg, wrapper, pixels, model.dataset_meta)
        info = json.loads(json.dumps(info))
        assert info['classes'] == list(model.dataset_meta['classes'])
        image = photo(*shape)
        (expected,) = predictor([image])
        given = postprocess.prepare(np.ascontiguousarray(image[..., ::-1]), info, resize_by_rule)
        network = FromPixels(wrapper, preprocessor) if pixels else wrapper
        with torch.no_grad():
            outputs = [output.numpy() for output in network(torch.from_numpy(given))]
        found = postprocess.finish(outputs, *shape, info)
        assert found.keys() == expected.keys()
        if name.startswith('det'):
            ours, theirs = [], []
            for part, into in ((found, ours), (expected, theirs)):
                inside = (part['boxes'][:, 2:] - part['boxes'][:, :2]).min(axis=1) > 2  # Not in the padding.
                names = ('boxes', 'labels', 'scores', 'masks')
                into += [torch.from_numpy(part[name][inside]).float() for name in names]
            assert len(theirs[0]) > 20
            assert match_detections(ours, theirs, 0.95).any(0).float().mean() > 0.9
        elif name.startswith('seg'):
            assert found['label_map'].shape == shape
            assert (found['label_map'] == expected['label_map']).mean() > 0.9  # At borders: see LabelMap.
        else:
            np.testing.assert_allclose(found['probabilities'], expected['probabilities'], rtol=1e-3)


def test_resizing_without_opencv_is_the_same():
    pixels, rule = photo(50, 70), dict(mode='stretch', interpolation='bilinear', antialias=False)
    for height, width in ((31, 90), (100, 35)):
        ours = postprocess.resize_pixels(pixels, height, width, rule).astype(int)
        assert abs(ours - cv2.resize(pixels, (width, height))).max() <= 1
    with pytest.raises(ValueError, match='Pillow'):
        postprocess.resize_pixels(pixels, 5, 5, dict(rule, antialias=True))


def test_image_fits_the_file_upright_too(root):
    cfg = small(root, 'detection/rtmdetins_iformer_t_coco')

    class Wrapper:
        outputs, divisor, widths = ('boxes', 'scores'), 32, ()

    fit_images(cfg, (64, 96))
    info = metadata.describe(cfg, Wrapper(), True, dict(classes=('a',)))
    assert postprocess.layout(200, 100, info) == ((64, 32), (64, 96))
    given = postprocess.prepare(np.full((200, 100, 3), 7, np.uint8), info)
    assert given.shape == (1, 64, 96, 3) and (given[0, :, :32] == 7).all() and (given[0, :, 32:] == 114).all()
    cfg.test_dataloader.dataset.pipeline.insert(1, ConfigDict(type='CLAHE'))
    with pytest.raises(UserError, match='CLAHE is no step of resizing, cropping or padding'):
        metadata.describe(cfg, Wrapper(), False, {})


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('detection/rtmdet_iformer_t_coco', (640, 640)),
        ('detection/maskrcnn_iformer_t_coco', (800, 1333)),
        ('segmentation/lraspp_iformer_t_ade20k', (512, 910)),  # Of 16:9, not of 4:1.
        ('segmentation/fpn_iformer_t_camvid', (256, 256)),  # Images keep their size.
        ('classification/iformer_t_cells', (96, 96)),
    ],
)
def test_file_has_the_size_of_the_pipeline(root, name, size):
    assert size_of_images(Config.fromfile(root / f'configs/{name}.py')) == size


def test_stored_beside_a_file_and_read_again(tmp_path):
    file, info = tmp_path / 'net.tflite', dict.fromkeys(metadata._NEEDED, 'é')
    assert metadata.load(file) is None
    metadata.save(file, info)
    assert metadata.load(file) == info and [f.name for f in tmp_path.iterdir()] == ['net.tflite.json']
    for text in ('{', '[]', '{"task": "det"}'):
        (tmp_path / 'net.tflite.json').write_text(text)
        with pytest.raises(
            UserError, match='net.tflite.json: its metadata are not complete; export it again'
        ):
            metadata.load(file)
