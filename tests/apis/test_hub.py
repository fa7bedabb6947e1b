"""Configs, models and inferencers by name; the wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import golden
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmiformer
from mmiformer.apis.configs import allow_own_bases
from mmiformer.apis.inference import predict
from mmiformer.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def test_config_is_the_file_of_that_name():
    cfg = mmiformer.get_config('fpn_iformer_l2_ade20k')
    theirs = Config.fromfile(ROOT / 'configs/segmentation/fpn_iformer_l2_ade20k.py')
    assert cfg.to_dict() == theirs.to_dict()


def test_model_with_weights_of_a_file_and_without(tmp_path):
    file = tmp_path / 'iFormer_t.pth'
    torch.save(dict(model=golden.state_dict('cls_t')), file)
    model = mmiformer.get_model('iformer_t_in1k', file)
    fresh = mmiformer.get_model('iformer_t_in1k')
    key = 'backbone.stem.0.conv.weight'
    expected = golden.state_dict('cls_t')['downsample_layers.0.0.c.weight']
    assert torch.equal(model.state_dict()[key], expected)
    assert not torch.equal(fresh.state_dict()[key], expected)
    assert not model.training and not fresh.training


def test_models_by_pattern_and_task():
    assert mmiformer.list_models('lraspp_iformer_?_ade20k') == [
        'lraspp_iformer_m_ade20k',
        'lraspp_iformer_t_ade20k',
    ]
    detectors = mmiformer.list_models(task='det')
    assert 'rtmdet_mocovit_coco' in detectors and 'iformer_t_in1k' not in detectors
    with pytest.raises(UserError, match="task 'cat': unknown; expected one of cls, det, seg"):
        mmiformer.list_models(task='cat')


def test_a_work_dir_is_its_config_and_best_checkpoint(tmp_path):
    cfg = mmiformer.get_config('iformer_t_in1k')
    cfg.model.head.num_classes = 3
    (tmp_path / 'config.py').write_text(cfg.pretty_text)
    (tmp_path / 'iformer_t_in1k.py').touch()
    with pytest.raises(UserError, match=f'{tmp_path}: has no checkpoint'):
        mmiformer.get_model(tmp_path, pretrained=True)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='https://host/of_the_start.pth')
    (tmp_path / 'config.py').write_text(cfg.pretty_text)
    with pytest.raises(UserError, match=f'{tmp_path}: has no checkpoint'):
        mmiformer.get_model(tmp_path, pretrained=True, features_only=True)
    for name, value in (('best_accuracy_top1_epoch_2', 2.0), ('epoch_3', 3.0)):
        weights = mmiformer.get_model(tmp_path).state_dict()
        weights['head.heads.0.linear.bias'].fill_(value)
        torch.save(dict(state_dict=weights), tmp_path / f'{name}.pth')
    (tmp_path / 'last_checkpoint').write_text('epoch_3.pth')
    for source, pretrained in ((tmp_path, True), (cfg, tmp_path / 'best_accuracy_top1_epoch_2.pth')):
        assert mmiformer.get_model(source, pretrained).head.heads[0].linear.bias.tolist() == [2.0] * 3
    (tmp_path / 'best_accuracy_top1_epoch_2.pth').unlink()
    assert mmiformer.get_model(tmp_path, pretrained=True).head.heads[0].linear.bias.tolist() == [3.0] * 3
    (tmp_path / 'config.py').unlink()
    (tmp_path / 'other.py').touch()
    with pytest.raises(UserError, match='a work dir has one config, this folder has 2; name the config'):
        mmiformer.get_config(tmp_path)


def test_other_class_counts_and_features_alone(tmp_path):
    theirs = golden.state_dict('cls_t')
    torch.save(dict(model=theirs), tmp_path / 'iFormer_t.pth')
    model = mmiformer.get_model('iformer_t_in1k', tmp_path / 'iFormer_t.pth', num_classes=7)
    images = torch.randn(2, 3, 64, 96)
    assert model.head(model.backbone(images)).shape == (2, 7)
    assert torch.equal(model.backbone.stem[0].conv.weight, theirs['downsample_layers.0.0.c.weight'])
    backbone = mmiformer.get_model('iformer_t_in1k', tmp_path / 'iFormer_t.pth', features_only=True)
    shapes = [tuple(features.shape[1:]) for features in backbone(images)]
    assert shapes == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]


@pytest.mark.parametrize('nothing', [False, None, ''])
def test_without_weights_nothing_is_fetched(nothing, monkeypatch):
    monkeypatch.setattr('mmiformer.checkpoints.reading.fetch', lambda url, _: pytest.fail(url))
    assert mmiformer.get_model('fpn_iformer_t_ade20k', nothing).backbone.arch == 't'


def test_models_without_released_weights_are_an_error():
    with pytest.raises(UserError, match='upernet_iformer_m_ade20k: no weights of the full model'):
        mmiformer.get_model('upernet_iformer_m_ade20k', pretrained=True)
    with pytest.raises(UserError, match='retinanet_mocovit_coco: no weights of the full model'):
        mmiformer.inferencer('retinanet_mocovit_coco')


def saved_file(name: str, folder: Path) -> str:
    """Saves random weights of a model, without class names, as the authors' files."""
    model = mmiformer.get_model(name)
    model.init_weights()
    if hasattr(model, 'roi_head'):  # Else no score passes the threshold.
        model.roi_head.bbox_head.fc_cls.weight.data *= 100
    torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    return str(folder / f'{name}.pth')


def with_program(file: str) -> Path:
    """Adds a config that makes a folder: mmdet's and mmseg's inferencers read one from the weight file."""
    mark = Path(file).with_name('mark')
    text = f"import os\nmodel = dict(type='os.mkdir', path={str(mark)!r})\nos.mkdir({str(mark)!r})"
    held = torch.load(file)
    torch.save(dict(held, meta=dict(cfg=text, config=text)), file)
    return mark


@pytest.fixture
def image(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = tmp_path / 'image.png'
    cv2.imwrite(str(file), cv2.resize(pixels, (120, 90), interpolation=cv2.INTER_CUBIC))
    return file


@pytest.mark.parametrize('name', ['maskrcnn_iformer_t_coco', 'fpn_iformer_t_ade20k', 'iformer_t_in1k'])
def test_the_toolboxs_inferencer_predicts_as_the_model(name, tmp_path, image, monkeypatch):
    cfg = mmiformer.get_config(name)
    if 'init_cfg' in cfg.model.backbone:
        monkeypatch.setattr(mmiformer.models.backbones.base, 'load_backbone', lambda *_: None)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (128, 128)
    monkeypatch.setattr('mmiformer.apis.hub.get_config', lambda _: cfg)
    weights = saved_file(name, tmp_path)
    mark = with_program(weights)
    inferencer = mmiformer.inferencer(name, weights, device='cpu')
    toolbox = dict(maskrcnn='mmdet', fpn='mmseg', iformer='mmpretrain')[name.split('_')[0]]
    assert type(inferencer).__module__.startswith(f'{toolbox}.apis')
    # With pictures, since mmseg's passes the metainfo of the data set to its visualizer.
    shown = (
        dict(show_dir=str(tmp_path / 'shown'))
        if toolbox == 'mmpretrain'
        else dict(out_dir=str(tmp_path / 'shown'))
    )
    found = inferencer(str(image), **shown)
    assert any(file.is_file() for file in (tmp_path / 'shown').rglob('*.[pj][np]g'))
    expected = predict(mmiformer.get_model(name, weights), cfg, image)
    if toolbox == 'mmpretrain':
        assert found[0]['pred_label'] == int(expected.pred_label)
        assert found[0]['pred_class'] in inferencer.classes
    elif toolbox == 'mmseg':
        labels = expected.pred_sem_seg.data[0].numpy()
        assert labels.shape == (90, 120)
        assert (found['predictions'] == labels).mean() > 0.999
        assert len(inferencer.visualizer.dataset_meta['classes']) == 150
    else:
        boxes = expected.pred_instances
        own = found['predictions'][0]
        assert len(own['scores']) == len(boxes) > 0
        np.testing.assert_allclose(own['bboxes'], boxes.bboxes.numpy(), atol=1e-2)
        assert own['labels'] == boxes.labels.tolist()
        assert inferencer.visualizer.dataset_meta['classes'][0] == 'person'
    assert not mark.exists()
    data = cv2.imencode('.jpg', cv2.imread(str(image)))[1].tobytes()
    (tmp_path / 'cut.jpg').write_bytes(data[:-100])
    with pytest.raises(UserError, match=r'cut\.jpg: truncated JPEG'):
        inferencer(str(tmp_path / 'cut.jpg'))


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    torch.save(dict(model=golden.state_dict('cls_t')), tmp_path / 'iFormer_t.pth')
    with pytest.raises(UserError, match=r"iFormer_t\.pth: .*arch='s'.*'t'"):
        mmiformer.inferencer('iformer_s_in1k', str(tmp_path / 'iFormer_t.pth'))


def test_a_custom_config_inherits_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Config, '_get_cfg_path', Config._get_cfg_path)  # Restored at the end.
    allow_own_bases()
    file = tmp_path / 'own.py'
    file.write_text(
        "_base_ = 'mmiformer::detection/maskrcnn_iformer_m_coco.py'\n"
        "model = dict(backbone=dict(arch='t', init_cfg=None), neck=dict(in_channels=[32, 64, 128, 256]))\n"
    )
    cfg = Config.fromfile(file)
    own = mmiformer.get_config('maskrcnn_iformer_t_coco')
    own.model.backbone.init_cfg = None
    assert cfg.to_dict() == own.to_dict()
    init_default_scope('mmdet')
    with torch.device('meta'):
        assert type(MODELS.build(cfg.model)).__name__ == 'MaskRCNN'
    file.write_text("_base_ = 'mmiformer::detection/nothing.py'\n")
    with pytest.raises(FileNotFoundError, match='detection/nothing.py'):
        Config.fromfile(file)


def test_the_wheel_contains_configs_metafiles_and_tools(tmp_path):
    """It is built, unpacked in another folder, and used there."""
    build = [
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '--quiet',
        '--no-deps',
        '--no-build-isolation',
        '--no-index',
    ]
    if not (ROOT / '.git').exists():
        pytest.skip('not a checkout')
    # From a copy: a build leaves files in the checkout.
    subprocess.run(['git', 'clone', '--quiet', str(ROOT), str(tmp_path / 'copy')], check=True)
    subprocess.run([*build, '-w', str(tmp_path), str(tmp_path / 'copy')], check=True)
    (wheel,) = tmp_path.glob('mmiformer-*.whl')
    target = tmp_path / 'installed'
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(target)
    mim = 'mmiformer/.mim/'
    for name in (
        'model-index.yml',
        'configs/_base_/default_runtime.py',
        'tools/train.py',
        'tools/dist_train.sh',
    ):
        assert mim + name in names
    tracked = subprocess.run(
        ['git', 'ls-files', 'configs', 'tools'], cwd=ROOT, capture_output=True, text=True
    )
    of_the_checkout = {'tools/generate.py'}
    brought = {n.removeprefix(mim) for n in names if n.startswith(mim)} - {'model-index.yml'}
    assert brought == set(tracked.stdout.split()) - of_the_checkout
    code = (
        'import mmiformer, pathlib\n'
        "cfg = mmiformer.get_config('maskrcnn_repvit_m1_1_coco')\n"
        "print(mmiformer.__file__, cfg.filename, type(mmiformer.get_model('iformer_t_in1k')).__name__)"
    )
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | {'PYTHONPATH': str(target)}
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    package, config, model = done.stdout.split()[-3:]
    assert Path(package).is_relative_to(target) and Path(config).is_relative_to(target)
    assert model == 'ImageClassifier'
