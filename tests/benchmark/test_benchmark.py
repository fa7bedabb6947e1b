import csv
import itertools
import json
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from helpers import SMALL_IFORMER, call_tool, trained_looking
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer.benchmark import networks, plotting, timing
from mmiformer.benchmark.cost import count_macs
from mmiformer.benchmark.networks import Network
from mmiformer.benchmark.profiling import profile_onnx
from mmiformer.deploy.runtimes import RUNTIMES
from mmiformer.deploy.runtimes.base import Runtime
from mmiformer.deploy.wrappers import ExportWrapper
from mmiformer.utils.errors import UserError
from mmiformer.zoo.published import DOWNSTREAM, IMAGENET, published

TINY = ('--sizes', '64x64', '--rounds', '3', '--seconds', '0.001')


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def benchmark(root, tmp_path, monkeypatch, capsys):
    """Runs the tool with arguments in an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        return call_tool(root / 'tools' / 'benchmark.py', arguments, monkeypatch, capsys)

    return call


def test_rounds_are_interleaved_and_measure_the_mean_of_a_call():
    log, tracked = [], []

    def call(number: int, seconds: float) -> None:
        log.append(number)
        time.sleep(seconds)

    def track(turns):
        tracked.extend(turns)
        return turns

    seconds = (0.001, 0.002, 0.004)
    calls = [partial(call, i, s) for i, s in enumerate(seconds)]
    times = timing.time_rounds(calls, rounds=4, seconds=0.02, track=track)
    assert times.shape == (4, 3) and (times >= seconds).all() and (times.min(axis=0) < 0.02).all()
    assert [row for row, _ in tracked] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert sorted(tracked) == list(itertools.product(range(4), range(3)))
    assert [i for i, _ in itertools.groupby(log)] == [i for i, _ in itertools.groupby(c for _, c in tracked)]


def test_statistics_of_noise_keep_values_in_range():
    net = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)) for _ in range(9))
    )
    for conv, _ in net:
        conv.weight.data *= 0.05
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert float(net.eval()(image).std()) < 1e-6
        networks.calibrate_batchnorm(net, 32, 32)
        assert 0.5 < float(net(image).std()) < 2
    assert not net.training
    assert not any(norm.training for _, norm in net)


@pytest.mark.parametrize(
    ('name', 'strides'),
    [
        ('iformer_t', (4, 8, 16, 32)),
        ('mocovit', (4, 8, 16, 32)),
        ('timm/mobilenetv4_conv_small', (4, 8, 16, 32)),
        ('timm/repvit_m0_9', (4, 8, 16, 32)),
        ('timm/efficientformerv2_s0', (4, 8, 16, 32)),  # Made for one size.
    ],
)
def test_networks_in_both_tasks(name, strides):
    image = torch.randn(1, 3, 64, 96)
    for task in networks.TASKS:
        network = Network(name, task).build(64, 96)
        with torch.no_grad():
            shapes = [tuple(out.shape[-2:]) for out in network(image)]
        assert len(network.outputs) == len(shapes)
        if task == 'classify':
            assert shapes == [(1, 1000)]
        else:
            assert shapes == [(64 // stride, 96 // stride) for stride in strides]
        if (
            name != 'timm/mobilenetv4_conv_small' and 'efficientformer' not in name
        ):  # timm has no fuse() for these.
            assert not any(isinstance(part, _BatchNorm) for part in network.modules())


def test_a_config_is_timed_as_its_backbone(root):
    network = Network.parse(str(root / 'configs/classification/mocovit_in1k.py'))
    assert network.title == 'mocovit_in1k'
    with torch.no_grad():
        assert [tuple(m.shape) for m in network.build(64, 64)(torch.randn(1, 3, 64, 64))] == [(1, 160, 2, 2)]


def test_torch_calls_are_channels_last_and_right():
    network = Network('iformer_t', 'pyramid').build(64, 64)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)[-1]
    found = timing.torch_call(network, image)()[-1]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    half = timing.torch_call(network, image, 'bf16')()[-1]
    assert half.dtype == torch.bfloat16
    assert next(network.parameters()).dtype == torch.float32


def test_published_figures():
    assert len({(row.name, row.distilled) for row in IMAGENET}) == len(IMAGENET)
    assert all(row.value is None or 60 < row.value < 90 for row in IMAGENET)
    assert all(row.source for row in IMAGENET)
    assert published('timm/iformer_m').value == published('iformer_m').value == 80.4
    assert published('iformer_m', distilled=True).value == 81.1
    assert published('repvit_m1_0') is None and published('repvit_m1_0', distilled=True).value == 80.15
    assert published('timm/repvit_m1_0.dist_450e_in1k') is None
    assert published('iformer_l', 'box_ap').value == 42.2
    assert published('iformer_l', 'mask_ap').value == 39.1
    assert published('timm/swin_tiny_patch4_window7_224', 'miou').value == 41.5
    assert published('efficientnet_b0', 'miou').value is None
    assert published('iformer_t', 'box_ap') is None
    assert all(timm.is_model(row.name) for row in DOWNSTREAM if row.name and row.family != 'iFormer')
    assert set(networks.OURS) <= {row.name for row in IMAGENET}


def some_points(count: int, panel: str = 'onnx fp32, 224x224') -> list[plotting.Point]:
    generator = np.random.default_rng(count)
    return [
        plotting.Point(
            plotting.short_name(row.name, row.family),
            row.family,
            panel,
            float(np.exp(0.3 * (row.value - 74) + generator.normal(0, 0.25))),
            row.value,
            row.distilled,
        )
        for row in IMAGENET[:count]
        if row.value
    ]


def test_pareto_front_against_its_definition():
    points = some_points(len(IMAGENET))
    beaten = [
        p
        for p in points
        if any(
            (q.cost <= p.cost and q.accuracy >= p.accuracy) and (q.cost, q.accuracy) != (p.cost, p.accuracy)
            for q in points
        )
    ]
    assert plotting.pareto_front(points) == sorted(
        (p for p in points if p not in beaten), key=lambda p: p.cost
    )


@pytest.mark.parametrize('count', [1, 2, len(IMAGENET)])
def test_labels_overlap_nothing(count, tmp_path):
    points = some_points(count) + some_points(count, 'onnx fp32, 512x512')
    figure = plotting.plot_costs(points, 'accuracy', note='a machine')
    figure.savefig(tmp_path / 'x.png')
    assert len(figure.axes) == 2
    for ax in figure.axes:
        labels = [text for text in ax.texts if text.get_text()]
        assert sorted(t.get_text() for t in labels) == sorted(p.name for p in points[: len(points) // 2])
        boxes = [text.get_window_extent() for text in labels]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        for point in points[: len(points) // 2]:
            xy = ax.transData.transform((point.cost, point.accuracy))
            assert not any(box.contains(*xy) for box in boxes)
        assert all(ax.bbox.containsx(b.x0) and ax.bbox.containsx(b.x1) for b in boxes)
    assert cv2.imread(str(tmp_path / 'x.png')).std() > 5


@pytest.mark.parametrize(
    ('name', 'family', 'short'),
    [
        ('timm/repvit_m1_0', 'RepViT', 'M1.0'),
        ('iformer_l2', 'iFormer', 'L2'),
        ('timm/iformer_m', 'iFormer (timm)', 'M'),
        ('mocovit', 'MoCoViT', 'MoCoViT'),
        ('timm/mobilenetv4_conv_small', 'MobileNetV4', 'conv small'),
        ('timm/ghostnet_100', 'GhostNet (timm)', '100'),
    ],
)
def test_short_names(name, family, short):
    assert plotting.short_name(name, family) == short


def test_table_files_and_picture(benchmark, tmp_path):
    code, out, _ = benchmark(
        'iformer_t', 'timm/test_efficientnet', *TINY, '--reference', 'iformer_t',
        '--precisions', 'fp32', 'bf16', '--out', 'results',
    )  # fmt: skip
    assert code == 0, out
    assert 'torch bf16, 64x64' in out
    assert 'no published top1: timm/test_efficientnet' in out
    content = json.loads((tmp_path / 'results/benchmark.json').read_text())
    assert content['machine']['versions']['torch'] == torch.__version__
    assert content['machine']['cores'] >= 1
    assert 'timm/test_efficientnet' in content['command']
    assert content['date']
    rows = content['rows']
    assert [row['accuracy'] for row in rows] == [74.1, 74.1, None, None]
    assert all(row['accuracy_with_teacher'] is None for row in rows)
    assert rows[2]['accuracy_source'] is None
    for row in rows:
        assert 0 < row['median_ms'] <= row['p90_ms']
        assert row['panel'] == f'torch {row["precision"]}, 64x64, classify'
        assert row['images_per_second'] == pytest.approx(1000 / row['median_ms'])
        assert row['peak_mib'] is None or row['peak_mib'] > 4e-6 * row['parameters']
        assert row['macs'] > 1e5
    assert [row['ratio'] for row in rows[:2]] == [1.0, 1.0]
    if sys.platform == 'linux':
        assert all(row['peak_mib'] for row in rows)
    with (tmp_path / 'results/benchmark.csv').open() as file:
        table = list(csv.DictReader(file))
    assert [row['network'] for row in table] == [row['network'] for row in rows]
    assert float(table[0]['median_ms']) == pytest.approx(rows[0]['median_ms'])
    assert table[2]['accuracy'] == ''
    assert cv2.imread(str(tmp_path / 'results/benchmark.png')).std() > 5


class Stub(Runtime):
    """A runtime that writes what it is given into a file, and cannot do RepViT."""

    name, suffix, modules = 'stub', '.stub', ('json',)
    precisions = ('fp32', 'int8')

    def write(self, wrapper, options, file):
        if any('repvit' in type(part).__module__ for part in wrapper.modules()):
            raise ValueError('no such operator\nand a long story')
        assert options.precision == 'fp32' or options.calibration
        file.write_text(json.dumps([list(options.example.shape), options.precision]))

    def open(self, file, threads=None):
        shape, _ = json.loads(file.read_text())
        assert threads == 1

        def session(image):
            assert image.shape == tuple(shape)
            return [image.sum(axis=(1, 2, 3))]

        return session

    def inspect(self, file):
        return Counter()


def test_runtimes_and_what_they_cannot_do(benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(RUNTIMES, 'stub', Stub())
    monkeypatch.setattr(timing, 'peak_memory', lambda *_, **__: None)
    code, out, err = benchmark(
        'mocovit', 'timm/repvit_m0_9', *TINY, '--task', 'pyramid', '--runtimes', 'torch', 'stub',
        '--precisions', 'fp32', 'int8', '--batch', 2, '--threads', 1,
        '--reference', 'mocovit:classify@torch', '--out', 'r',
    )  # fmt: skip
    assert code == 1
    assert '2 of 7 entries: could not be timed' in err
    assert 'stub: cannot convert this network (ValueError: no such operator)' in ' '.join(out.split())
    assert 'long story' not in out + err
    content = json.loads(Path('r/benchmark.json').read_text())
    kinds = [(r['network'], r['task'], r['runtime'], r['precision']) for r in content['rows']]
    assert kinds == [
        ('mocovit', 'pyramid', 'torch', 'fp32'),
        ('mocovit', 'pyramid', 'stub', 'fp32'),
        ('mocovit', 'pyramid', 'stub', 'int8'),
        ('timm/repvit_m0_9', 'pyramid', 'torch', 'fp32'),
        ('mocovit', 'classify', 'torch', 'fp32'),
    ]
    assert all(row['ratio'] and row['peak_mib'] is None for row in content['rows'])
    assert content['rows'][0]['images_per_second'] == pytest.approx(2000 / content['rows'][0]['median_ms'])
    assert {name: reason.partition(';')[0] for name, reason in content['failures'].items()} == dict.fromkeys(
        [f'timm/repvit_m0_9 (stub {precision}, 64x64, pyramid)' for precision in ('fp32', 'int8')],
        'stub: cannot convert this network (ValueError: no such operator)',
    )


class Parts(ExportWrapper):
    """A neck of hundreds of times the work of the backbone and the head, and work outside of them."""

    outputs = ('maps',)

    def forward(self, image):
        for part in self.model.values():
            image = part(image)
        return (image.softmax(dim=1),)


def test_shares_of_time_name_the_parts(tmp_path):
    neck = nn.Sequential(*(nn.Conv2d(16, 16, 9, padding=4) for _ in range(8)))
    model = dict(backbone=nn.Conv2d(3, 16, 1), neck=neck, decode_head=nn.Conv2d(16, 3, 1))
    image, file = torch.randn(1, 3, 64, 64), tmp_path / 'x.onnx'
    timing.runtime_call(RUNTIMES['onnx'], Parts(nn.ModuleDict(model), False), image, 'fp32', 1, file)
    shares = profile_onnx(file, image.numpy(), 1)
    assert list(shares) == ['backbone', 'neck', 'head', 'rest']
    assert shares['neck'] > 0.7 and min(shares.values()) > 0
    assert sum(shares.values()) == pytest.approx(1)


def test_whole_models(benchmark, root, tmp_path, monkeypatch):
    """A detector with weights and an image detects in the tool what mmdet's own predict does."""
    monkeypatch.setitem(RUNTIMES, 'stub', Stub())
    init_default_scope('mmdet')
    file = tmp_path / 'rtmdet_tiny_of_a_test.py'  # As mmdet's config, which has a published AP.
    cfg = Config.fromfile(root / 'configs/detection/rtmdet_iformer_t_coco.py')
    cfg.model.backbone.update(arch=SMALL_IFORMER, init_cfg=None)
    cfg.model.neck.in_channels, cfg.model.bbox_head.num_classes = SMALL_IFORMER['dims'][1:], 3
    cfg.dump(file)
    model = MODELS.build(cfg.model)
    trained_looking(model)
    for layer in model.bbox_head.rtm_reg:
        layer.bias.data.fill_(2)  # Boxes with an area.
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'weights.pth')
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (tmp_path / 'images').mkdir()
    cv2.imwrite(str(tmp_path / 'images/x.png'), pixels)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0)))
    model.test_cfg.score_thr = model.bbox_head.test_cfg.score_thr = 0.3
    data = dict(inputs=[torch.from_numpy(pixels).permute(2, 0, 1)], data_samples=[sample])
    with torch.no_grad():
        expected = model.test_step(data)[0].pred_instances

    code, out, err = benchmark(
        f'{file}=weights.pth', root / 'configs/segmentation/lraspp_iformer_t_ade20k.py', *TINY, '--sizes',
        '64x96', '--what', 'model', '--images', 'images', '--runtimes', 'torch', 'stub', '--accuracy',
        'box_ap', '--no-memory', '--cfg-options', 'model.test_cfg.score_thr=0.3', '--out', 'r',
    )  # fmt: skip
    assert code == 0, out + err
    rows = json.loads(Path('r/benchmark.json').read_text())['rows']
    assert [row['runtime'] for row in rows] == ['torch', 'stub'] * 2
    assert [row['detections'] for row in rows] == [len(expected)] * 2 + [None] * 2
    assert len(expected) > 3
    assert rows[0]['macs'] == count_macs(model, 64, 96)  # mmdet's own forward, not folded.
    backbone = count_macs(model.backbone, 64, 96)
    assert rows[0]['backbone'] == pytest.approx(backbone / rows[0]['macs'])
    assert rows[0]['backbone'] + rows[0]['neck'] + rows[0]['head'] == pytest.approx(1)
    assert (rows[2]['neck'], rows[2]['head']) == (0, pytest.approx(1 - rows[2]['backbone']))
    assert [row['accuracy'] for row in rows] == [40.9] * 2 + [None] * 2
    assert 'backbone' in out and Path('r/benchmark.png').exists() and Path('r/parameters.png').exists()

    code, _, err = benchmark(file, *TINY, '--sizes', '80x64', '--what', 'model')
    assert code == 1 and 'multiples of 32' in err


class Absent(Stub):
    modules = ('a_module_that_nobody_has',)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['resnet18'], 'did you mean timm/resnet18'),
        (['iformer_x'], 'did you mean iformer_'),
        (['timm/repvit_m1_9'], 'did you mean timm/repvit_m'),
        (['configs/none.py'], "config 'configs/none.py': no such file, work dir"),
        (['iformer_t:segment'], 'expected classify or pyramid'),
        (['iformer_t', '--runtimes', 'stab'], "runtime 'stab': expected one of torch, torch-compile, onnx"),
        (['iformer_t', '--runtimes', 'absent'], "pip install 'mmiformer[stub]'"),
        (['iformer_t', '--precisions', 'fp16'], '--precisions: torch has none of these'),
        (['iformer_t', '--reference', 'iformer_s@stab'], "runtime 'stab': expected one of"),
        (['iformer_t', '--reference', 'iformer_y'], 'did you mean iformer_'),
        (['iformer_t', '--channels-last'], 'are for training steps; add --train'),
        (['iformer_t', '--images', '.'], '--images: is for inference with whole models; add --what model'),
        (
            ['iformer_t', '--train', '--runtimes', 'onnx'],
            "runtime 'onnx': expected one of torch, torch-compile",
        ),
        (['iformer_t', '--train', '--device', 'cuda:99'], 'CUDA devices'),
        (['iformer_t', '--out', '/dev/null/x'], '/dev/null/x: cannot be written'),
    ],
)
def test_bad_input_is_one_sentence(benchmark, monkeypatch, arguments, sentence):
    monkeypatch.setitem(RUNTIMES, 'absent', Absent())
    monkeypatch.setattr(timing, 'time_rounds', lambda *_: pytest.fail('the run began'))
    code, out, err = benchmark(*arguments)
    assert code == 1
    assert err.count('\n') == 1
    assert sentence in err
    assert not Path('work_dirs').exists()


def test_a_network_without_the_strides_is_named():
    with pytest.raises(UserError, match='timm/test_vit: expected feature maps of strides 8, 16, 32, found'):
        Network('timm/test_vit', 'pyramid').build(160, 160)
