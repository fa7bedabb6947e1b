"""Segmentation through the command lines and the inference path, on the embedded miniature data."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import golden
import numpy as np
import pytest
import torch
from helpers import SHORT_SEG
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer.apis.cli import load_config
from mmiformer.apis.inference import build_model, predict
from mmiformer.deploy import fold
from mmiformer.tasks import task_of
from mmiformer.tasks.segmentation import class_shares

CONFIGS = ('fpn_iformer_t', 'upernet_iformer_t')


@pytest.fixture
def seg_config(root):
    return lambda name: str(root / f'configs/segmentation/{name}.py')


def train(run_tool, config: str, work_dir: str, *options: str) -> tuple[str, Path]:
    code, out, err = run_tool(
        'train', config, '--demo', '--work-dir', work_dir, *options, '--cfg-options', *SHORT_SEG
    )
    assert code == 0, err[-3000:]
    return out, Path(work_dir)


@pytest.fixture(scope='module')
def runs() -> dict[str, tuple[str, Path]]:
    """What was printed and left by a short ``--demo`` run of each config that was trained."""
    return {}


@pytest.fixture
def demo_run(run_tool, seg_config, workplace, runs) -> Callable[[str], tuple[str, Path]]:
    def get(name: str) -> tuple[str, Path]:
        if name not in runs:
            runs[name] = train(run_tool, seg_config(f'{name}_ade20k'), f'run_{name}')
        return runs[name]

    return get


@pytest.fixture
def segmentor(demo_run) -> tuple[str, Path]:
    """Config and checkpoint of a short run on the miniature data."""
    _, run = demo_run('fpn_iformer_t')
    return str(next(run.glob('*.py'))), run / 'iter_2.pth'


@pytest.mark.parametrize('name', CONFIGS)
def test_demo_trains_evaluates_and_draws(demo_run, seg_config, name):
    out, run = demo_run(name)
    assert 'data/demo/ade: 360 training and 60 validation images of sky, tree' in out
    for picture in ('curves.png', 'predictions.png'):
        assert cv2.imread(str(run / picture)).std() > 5
    scalars = [json.loads(x) for x in next(run.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert any('mIoU' in line for line in scalars)
    assert ('aux.loss_ce' in scalars[0]) == name.startswith('upernet')
    # Never a layer or a width: only the classes and the size of the crops differ.
    full, short = (
        load_config(seg_config(f'{name}_ade20k')).model,
        load_config(str(next(run.glob('*.py')))).model,
    )
    assert short.decode_head.num_classes == 8 and short.backbone.norm_eval is False
    full.data_preprocessor.size = short.data_preprocessor.size
    for part in ('decode_head', 'auxiliary_head'):
        if part in full:
            full[part].num_classes = 8
    full.backbone.norm_eval = False
    del full.backbone['init_cfg']
    assert full == short


def test_auto_scale_lr_follows_the_batch(run_tool, seg_config, workplace):
    _, run = train(run_tool, seg_config('fpn_iformer_t_camvid'), 'run_scaled', '--auto-scale-lr')
    group = torch.load(run / 'iter_2.pth', weights_only=False)['optimizer']['param_groups'][0]
    base = load_config(str(next(run.glob('*.py')))).optim_wrapper.optimizer.lr
    assert group['initial_lr'] == pytest.approx(base * 2 / 8)  # a batch of 2 instead of 8
    assert (run / 'best_mIoU_iter_2.pth').exists(), 'save_best of the config holds in the demo'


def demo_image(workplace: Path) -> Path:
    return sorted((workplace / 'data/demo/ade/images/validation').iterdir())[0]


@pytest.mark.parametrize('options', [(), ('--compile',)])
def test_test_reproduces_the_evaluation(segmentor, run_tool, workplace, monkeypatch, options):
    config, file = segmentor
    compiled = []

    def compile_graph(call, **kwargs):  # Its graphs, without minutes of C++ compiler.
        compiled.append(call.__self__)
        return original(call, **kwargs | dict(backend='eager'))

    original = torch.compile
    monkeypatch.setattr(torch, 'compile', compile_graph)
    name = f'seg_tested{len(options)}'
    code, _, err = run_tool('test', config, file, '--work-dir', name, *options)
    assert code == 0, err[-3000:]
    assert {type(m).__name__ for m in compiled} == ({'ConvBlock', 'CPE', 'SHMA', 'FFN'} if options else set())
    found = json.loads(next((workplace / name).glob('*/*.json')).read_text())
    lines = next(file.parent.glob('*/vis_data/scalars.json')).read_text().splitlines()
    expected = next(s for s in map(json.loads, lines) if 'mIoU' in s)
    for key in ('mIoU', 'aAcc'):
        assert found[key] == pytest.approx(expected[key], abs=0.05)  # of 100


def test_tta_averages_the_probabilities_of_all_scales_and_flips(segmentor, run_tool, workplace):
    """Against the average made by hand: resize, flip, predict, flip back, resize back."""
    config, file = segmentor
    image, out = demo_image(workplace), workplace / 'tta'
    options = ['test_dataloader.dataset.indices=1', f'test_evaluator.output_dir={out}']
    code, _, err = run_tool('test', config, file, '--tta', '--work-dir', 'seg_tta', '--cfg-options', *options)
    assert code == 0, err[-3000:]
    found = cv2.imread(str(out / f'{image.stem}.png'), -1)

    cfg = load_config(config)
    model = build_model(cfg, str(file))
    pixels = cv2.imread(str(image))
    height, width = pixels.shape[:2]
    scales = [s.scale for s in cfg.tta_pipeline[1].transforms[0]]
    assert [s[0] for s in scales] == [128, 192, 256, 320, 384, 448]
    total = torch.zeros(8, height, width)
    for scale in scales:
        factor = scale[0] / max(height, width)
        size = int(width * factor + 0.5), int(height * factor + 0.5)
        resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        for flipped in (False, True):
            view = np.ascontiguousarray(resized[:, ::-1] if flipped else resized)
            batch = model.data_preprocessor(dict(inputs=[torch.from_numpy(view.transpose(2, 0, 1))]))
            with torch.no_grad():
                maps = model.encode_decode(batch['inputs'], [dict(img_shape=view.shape[:2])])
            maps = maps.flip(3) if flipped else maps
            maps = torch.nn.functional.interpolate(maps, (height, width), mode='bilinear')
            total += maps[0].softmax(0)
    # mmseg writes labels as they stand in ADE's files, one above the index of the class.
    assert (total.argmax(0).numpy() + 1 == found).mean() > 0.999


def test_tta_where_the_config_has_none(run_tool, root, segmentor, workplace):
    config = root / 'configs/detection/maskrcnn_iformer_t_coco.py'
    code, _, err = run_tool('test', config, segmentor[1], '--demo', '--tta')
    assert code == 1 and 'has no tta_model and tta_pipeline' in err


def test_demo_draws_an_overlay_with_a_legend(segmentor, run_tool, workplace):
    config, file = segmentor
    image = demo_image(workplace)
    code, out, err = run_tool('predict', image, config, file, '--out', 'overlay.png')
    assert code == 0 and out.strip().endswith('%: overlay.png'), err[-3000:]
    picture, original = cv2.imread('overlay.png'), cv2.imread(str(image))
    scale = 480 / max(original.shape)  # small images are drawn larger
    assert abs(picture.shape[0] - original.shape[0] * scale) < 15
    assert picture.shape[1] > original.shape[1] * scale + 60, 'the legend stands beside it'
    assert picture[:, -40:].min() < 128, 'and has letters'

    cfg = load_config(config)
    model = build_model(cfg, str(file))
    sample = predict(model, cfg, image)
    shares = class_shares(sample.pred_sem_seg)
    names = [model.dataset_meta['classes'][i] for i in shares]
    assert all(f'{name} ' in out for name in names) and sum(shares.values()) == pytest.approx(1)
    # Colours are the data set's, mixed into the image by the config's alpha.
    drawn = task_of(cfg).painter(cfg, model.dataset_meta).draw(original[..., ::-1].copy(), sample)
    labels = sample.pred_sem_seg.data[0].numpy()
    expected = 0.4 * original[..., ::-1] + 0.6 * np.array(model.dataset_meta['palette'])[labels]
    assert abs(drawn - expected).max() <= 1


@pytest.mark.parametrize('size', [(333, 500), (256, 256), (97, 41), (33, 500)])
def test_sliding_window_and_whole_image_agree_where_one_window_suffices(segmentor, tmp_path, size):
    config, file = segmentor
    cfg = load_config(config)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'image.png'), pixels)
    cfg.test_dataloader.dataset.pipeline[1].scale = (512, 512)
    model = build_model(cfg, str(file))
    whole = predict(model, cfg, tmp_path / 'image.png')
    model.test_cfg = cfg.model.test_cfg = type(cfg.model.test_cfg)(
        mode='slide', crop_size=(512, 512), stride=(341, 341)
    )
    slide = predict(model, cfg, tmp_path / 'image.png')
    assert whole.pred_sem_seg.data.shape == slide.pred_sem_seg.data.shape == (1, *size)
    torch.testing.assert_close(whole.seg_logits.data, slide.seg_logits.data, rtol=1e-5, atol=1e-5)
    # Several windows: still the image's own size, and another result.
    model.test_cfg.update(crop_size=(128, 128), stride=(85, 85))
    several = predict(model, cfg, tmp_path / 'image.png')
    assert several.pred_sem_seg.data.shape == (1, *size)
    assert not torch.allclose(several.seg_logits.data, whole.seg_logits.data, rtol=1e-3, atol=1e-3)


def test_a_whole_official_segmentor_loads_with_nothing_missing_or_left(tmp_path, seg_config, run_tool):
    """Made by the rule: the authors' backbone names below ``backbone.``, mmseg's own neck and head names."""
    cfg = load_config(seg_config('fpn_iformer_m_ade20k'))
    init_default_scope('mmseg')
    shapes = {
        k: list(v.shape)
        for k, v in MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None)))
        .state_dict()
        .items()
    }
    rest = {k: golden.made_up(k, s) for k, s in shapes.items() if not k.startswith('backbone.')}
    weights = {f'backbone.{k}': v for k, v in golden.state_dict('det_m').items()} | rest
    file = tmp_path / 'iFormer_m_iter_40000.pth'
    torch.save(dict(state_dict=weights, meta=dict(iter=40000)), file)
    model = build_model(cfg, str(file))  # Strict.
    loaded = model.state_dict()
    assert len(loaded) == len(weights)
    torch.testing.assert_close(loaded['decode_head.conv_seg.weight'], weights['decode_head.conv_seg.weight'])
    torch.testing.assert_close(
        loaded['backbone.stages.2.blocks.10.q.conv.weight'],
        weights['backbone.stages.2.10.block.token_channel_mixer.m.q.c.weight'],
    )
    assert len(model.dataset_meta['classes']) == len(model.dataset_meta['palette']) == 150
    # Folded, heads too, the whole segmentor still computes the same.
    folded = fold(model)
    assert not any(isinstance(m, _BatchNorm) for m in folded.modules())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        a, b = folded(image), model(image)
    assert float((a - b).norm() / b.norm()) < 1e-5


def test_class_shares_counts_what_is_in_the_masks(segmentor, run_tool, workplace):
    config, _ = segmentor
    code, out, err = run_tool(
        'class_shares', config, '--split', 'val', '--cfg-options', 'val_dataloader.dataset.indices=9'
    )
    assert code == 0, err[-3000:]
    files = sorted((workplace / 'data/demo/ade/annotations/validation').iterdir())[:9]
    counts = np.bincount(np.concatenate([cv2.imread(str(f), -1).ravel() for f in files]), minlength=151)
    shares = {label: counts[label] / counts[1:].sum() for label in np.flatnonzero(counts) if label}
    assert f'{counts[0] / counts.sum():.1%} unlabelled' in out
    assert all(f'{share:.2%}' in out for share in shares.values())
    # Balanced: with these weights an average pixel counts one, and a class as the root of its share.
    weights = [float(w) for w in out.partition('class_weight=[')[2].partition(']')[0].split(',')]
    assert np.dot(weights, list(shares.values())) == pytest.approx(1, abs=0.01)
    assert np.ptp(np.square(weights) * list(shares.values())) < 0.02
    assert f'{max(shares.values()) / len(shares):.2%} over the {len(shares)} classes' in out


def test_wrong_masks_stop_the_run_by_their_name(run_tool, seg_config, workplace, segmentor):
    config = seg_config('fpn_iformer_t_ade20k')
    folder = workplace / 'data/demo/ade/annotations/training'
    victim = sorted(folder.iterdir())[0]
    original = victim.read_bytes()
    labels = cv2.imread(str(victim), -1)

    def sentence(workers: int) -> str:
        options = [
            *SHORT_SEG,
            'train_dataloader.dataset.indices=2',
            f'train_dataloader.num_workers={workers}',
        ]
        code, _, err = run_tool('train', config, '--demo', '--work-dir', 'bad', '--cfg-options', *options)
        lines = [line for line in err.splitlines() if line.startswith('error: ')]
        assert code == 1 and len(lines) == 1 and 'Traceback' not in err, err[-2000:]
        assert victim.name in lines[0]
        return lines[0]

    try:
        cv2.imwrite(str(victim), labels[:-1])
        assert 'make the mask as large as its image' in sentence(0)
        cv2.imwrite(str(victim), np.full_like(labels, 151))
        assert 'label 151' in sentence(1)
        cv2.imwrite(str(victim), np.zeros((*labels.shape, 3), np.uint8))
        assert 'mode RGB, expected one channel' in sentence(0)
        victim.unlink()
        assert '1 of 360 images have none' in sentence(0)
    finally:
        victim.write_bytes(original)


def test_heads_of_another_class_count_stop_the_run(run_tool, seg_config, workplace):
    options = [*SHORT_SEG, 'model.decode_head.num_classes=150']
    code, _, err = run_tool(
        'train', seg_config('fpn_iformer_t_ade20k'), '--demo', '--work-dir', 'bad', '--cfg-options', *options
    )
    assert code == 1 and 'model.decode_head.num_classes: 150' in err and '8 classes' in err


def test_real_images_in_ades_format_train_and_evaluate(run_tool, seg_config, real_data, monkeypatch):
    """From scratch on the real files, the published pipeline at a small size."""
    if not (real_data / 'ade').is_dir():
        pytest.skip(f'no ade in {real_data}')
    monkeypatch.setenv('MMIFORMER_DATA', str(real_data))
    options = [o for o in SHORT_SEG if 'scale' not in o and 'seed' not in o] + [
        'model.backbone.init_cfg=None',
        'model.backbone.norm_eval=False',
        'train_dataloader.dataset.pipeline.2.scale=(256,64)',
        'val_dataloader.dataset.pipeline.1.scale=(256,64)',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
    ]
    code, _, err = run_tool(
        'train', seg_config('fpn_iformer_t_ade20k'), '--work-dir', 'real_ade', '--cfg-options', *options
    )
    assert code == 0, err[-3000:]
    scalars = next(Path('real_ade').glob('*/vis_data/scalars.json')).read_text()
    assert '"mIoU"' in scalars
