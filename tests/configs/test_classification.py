import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from PIL import Image

from mmiformer import IFormer
from mmiformer.apis.cli import load_config

FOLDER = Path(__file__).parents[2] / 'configs' / 'classification'
PLAIN = ('t', 's', 'm', 'l', 'h')
DISTILLED = ('t', 's', 'm', 'l', 'l2')  # T and S are not published.
CONFIGS = [FOLDER / f'iformer_{a}_in1k.py' for a in PLAIN]
CONFIGS += [FOLDER / f'iformer_{a}_distill_in1k.py' for a in DISTILLED]


def test_all_networks_are_there():
    assert {c.name for c in CONFIGS} == {c.name for c in FOLDER.glob('iformer_*_in1k.py')}


@pytest.mark.parametrize('file', CONFIGS, ids=lambda f: f.stem)
def test_published_recipe(file):
    """facts: the recipe of the paper and of the released code."""
    cfg = Config.fromfile(file)
    arch, distilled = cfg.model.backbone.arch, 'distill' in file.stem
    assert file.stem.split('_')[1] == arch
    backbone, head = cfg.model.backbone, cfg.model.head
    assert backbone.drop_path_rate == (0 if distilled else {'l': 0.1, 'h': 0.6}.get(arch, 0))
    assert backbone.get('layer_scale_init_value', 0) == (1e-6 if arch == 'h' else 0)
    assert head.in_channels == IFormer.arch_settings[arch]['dims'][3]
    assert head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1)
    batch = 8192 if arch == 'h' else 4096
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=batch)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=4e-3 * batch / 4096, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05
    )
    assert 'clip_grad' not in cfg.optim_wrapper and cfg.optim_wrapper.type == 'OptimWrapper'
    epochs = 450 if arch == 'l2' else 300
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.type, warm_up.begin, warm_up.end, warm_up.start_factor) == ('LinearLR', 0, 20, 1e-6)
    assert (cosine.type, cosine.begin, cosine.end, cosine.T_max, cosine.eta_min) == (
        'CosineAnnealingLR',
        20,
        epochs,
        epochs - 20,
        1e-6,
    )
    assert warm_up.convert_to_iter_based and cosine.convert_to_iter_based
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.model.train_cfg.augments == [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    assert 'probs' not in cfg.model.train_cfg, 'half and half'
    hooks = [h for h in cfg.get('custom_hooks', []) if h.type == 'EMAHook']
    assert [h.momentum for h in hooks] == ([1e-4] if arch == 'h' else []), '0.9999, for H only'
    if distilled:
        assert (cfg.model.distillation, cfg.model.weight, head.num_heads) == ('hard', 0.5, 2)
        assert cfg.model.teacher == dict(
            type='TimmClassifier',
            model_name='regnety_160.deit_in1k',
            checkpoint_path='https://huggingface.co/timm/regnety_160.deit_in1k/resolve/main/model.safetensors',
        )
    steps = {s.type: s for s in cfg.train_dataloader.dataset.pipeline}
    assert (steps['RandomResizedCrop'].scale, steps['RandomResizedCrop'].interpolation) == (224, 'bicubic')
    augment, erasing = steps['RandAugment'], steps['mmiformer.datasets.classification.PixelErasing']
    assert (augment.policies, augment.magnitude_level, augment.magnitude_std) == ('timm_increasing', 9, 0.5)
    preprocessor = cfg.model.data_preprocessor
    assert erasing.erase_prob == 0.25
    assert (erasing.fill_color[::-1], erasing.fill_std[::-1]) == (preprocessor.mean, preprocessor.std)
    assert cfg.train_dataloader.drop_last
    assert cfg.default_scope == 'mmpretrain' and 'mmiformer' in cfg.custom_imports.imports


@pytest.mark.parametrize('name', ['iformer_m_distill_in1k', 'iformer_h_in1k'])
def test_one_dimensional_parameters_and_biases_do_not_decay(name):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    names = {id(p): n for n, p in model.named_parameters()}
    groups: dict[float, list[str]] = {0.05: [], 0.0: []}
    for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
        groups[group['weight_decay']] += [names.pop(id(p)) for p in group['params']]
    assert not names, 'every parameter is in a group'
    shapes = {n: p.ndim for n, p in model.named_parameters()}
    for decay, members in groups.items():
        print(f'\n{name}: weight decay {decay} on {len(members)} tensors, e.g. {", ".join(members[:4])}')
    assert set(groups[0.0]) == {n for n, d in shapes.items() if d == 1 or n.endswith('.bias')}
    gammas = [n for n in shapes if n.endswith('gamma')]
    assert set(gammas) <= set(groups[0.05]) and bool(gammas) == ('_h_' in name)


@pytest.mark.parametrize('size', [(375, 500), (500, 333), (257, 256), (120, 97)])
def test_the_test_transform_is_the_published_one(tmp_path, size):
    """Pixel by pixel torchvision's, which the authors' code uses, EXIF orientation and all."""
    transforms = pytest.importorskip('torchvision.transforms')
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_CUBIC))
    exif = Image.Exif()
    exif[0x0112] = 6  # Lies on its side.
    file = tmp_path / 'image.JPEG'
    image.save(file, exif=exif)
    cfg = Config.fromfile(CONFIGS[0])
    init_default_scope('mmpretrain')
    steps = [TRANSFORMS.build(s) for s in cfg.test_dataloader.dataset.pipeline]
    found = Compose(steps)(dict(img_path=str(file)))['inputs']
    theirs = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.PILToTensor(),
        ]
    )
    expected = theirs(Image.open(io.BytesIO(file.read_bytes())).convert('RGB'))
    assert torch.equal(found.flip(0), expected)
    normalised = MODELS.build(cfg.model.data_preprocessor)(dict(inputs=[found]))['inputs'][0]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(normalised, (expected / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_data_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv('MMIFORMER_DATA', '/elsewhere')
    cfg = load_config(str(CONFIGS[0]))
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere/imagenet/'
