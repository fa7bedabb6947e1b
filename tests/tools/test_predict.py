"""Predicting with the command line, with a model and with its ONNX file, and without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import SMALL_IFORMER, trained_looking

from mmiformer.apis.cli import load_config
from mmiformer.apis.inference import build_model, open_predictor, predict_source

FRAMES, SIZE = 20, (64, 96)
WITHOUT_TORCH = """
import runpy, sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition('.')[0] in ('cv2', 'mmcv', 'mmdet', 'mmengine', 'mmiformer', 'torch'):
            raise ImportError(f'{name} is absent')
sys.meta_path.insert(0, Absent())
sys.argv = ['example.py', *sys.argv[1:]]
runpy.run_path('example.py', run_name='__main__')
"""


@pytest.fixture(scope='module')
def run(root, tmp_path_factory) -> Path:
    """A work dir of a small RTMDet, and a video beside it."""
    folder = tmp_path_factory.mktemp('predict')
    (folder / 'run').mkdir()
    dims = SMALL_IFORMER['dims'][1:]
    model = dict(
        backbone=dict(arch=dict(SMALL_IFORMER, _delete_=True), init_cfg=None),
        neck=dict(in_channels=list(dims), out_channels=32),
        bbox_head=dict(in_channels=32, feat_channels=32, num_classes=2),
        test_cfg=dict(score_thr=0.01, max_per_img=5),
    )
    pipeline = [
        dict(type='LoadCheckedImage'),
        dict(type='Resize', scale=(96, 64), keep_ratio=True),
        dict(type='PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
    ]
    dataset = dict(metainfo=dict(classes=('cat', 'dog')), pipeline=pipeline)
    base = str(root / 'configs/detection/rtmdet_iformer_t_coco.py')
    (folder / 'run/config.py').write_text(
        f'_base_ = {base!r}\nmodel = {model}\ntest_dataloader = dict(dataset={dataset})\n'
    )
    torch.manual_seed(0)
    network = trained_looking(build_model(load_config(str(folder / 'run/config.py')), None))
    for conv in network.bbox_head.rtm_reg:  # An untrained RTMDet's boxes have no area.
        conv.bias.data.fill_(1.5)
    torch.save(dict(state_dict=network.state_dict()), folder / 'run/best_coco_bbox_mAP_epoch_2.pth')
    torch.save(dict(state_dict={}), folder / 'run/epoch_3.pth')
    rough = np.random.default_rng(0).integers(0, 256, (10, 30, 3), np.uint8)
    wide = cv2.resize(rough, (SIZE[1] + 4 * FRAMES, SIZE[0]))
    writer = cv2.VideoWriter(str(folder / 'clip.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 10, SIZE[::-1])
    for number in range(FRAMES):
        writer.write(np.ascontiguousarray(wide[:, 4 * number : 4 * number + SIZE[1]]))
    writer.release()
    (folder / 'images').mkdir()
    cv2.imwrite(str(folder / 'images/a.png'), wide[:, : SIZE[1]])
    return folder


@pytest.fixture(scope='module')
def file(run) -> Path:
    return run / 'exported' / 'net.onnx'


@pytest.mark.slow
def test_model_and_file_find_the_same_in_a_video(run, file, run_tool, root, monkeypatch):
    pytest.importorskip('onnxruntime'), pytest.importorskip('onnxscript')
    monkeypatch.chdir(run)
    weights = run / 'run/best_coco_bbox_mAP_epoch_2.pth'
    options = ('--to', 'onnx', '--size', 60, 90, '--images', 'images', '--out', file)
    code, out, err = run_tool('export', run / 'run/config.py', weights, *options)
    assert code == 0, err[-3000:]
    assert 'The file takes images of 64x96, --size, rounded up to multiples of 32.' in out
    assert 'detections' in out and '1 images of images' in out
    found = {}
    for name, model in (('model', 'run'), ('file', file)):
        code, out, err = run_tool(
            'predict', 'clip.mp4', model, '--out', name, '--score-thr', 0.02, '--save', 'json'
        )
        assert code == 0, err[-3000:]
        assert f'{FRAMES} frames in ' in out and 'clip.mp4' in out and 'objects' in out
        found[name] = json.loads((run / name / 'predictions.json').read_text())
        film = cv2.VideoCapture(str(run / name / 'clip.mp4'))
        assert film.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES and film.get(cv2.CAP_PROP_FPS) == 10
        assert film.read()[1].shape == (*SIZE, 3)
    ours, theirs = found['model'], found['file']
    assert len(ours) == len(theirs) >= FRAMES and {row['image_id'] for row in ours} <= set(range(FRAMES))
    for key in ('bbox', 'score'):
        np.testing.assert_allclose([r[key] for r in ours], [r[key] for r in theirs], rtol=1e-3, atol=0.05)
    assert [row['category_name'] for row in ours] == [row['category_name'] for row in theirs]

    # With the config instead of what the file carries.
    predictors = [open_predictor(file, config=config) for config in (None, 'run/config.py')]
    assert predictors[0]._info == predictors[1]._info

    # In Python, and without torch beside the file.
    (result,) = predict_source(predictors[0], 'images/a.png', score_thr=0.3)
    shutil.copy('images/a.png', file.parent)
    command = [sys.executable, '-c', WITHOUT_TORCH, 'net.onnx', 'a.png']
    printed = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in printed.splitlines()]
    assert [line[0] for line in lines] == result.found() and lines
    np.testing.assert_allclose(
        [[float(number) for number in line[2:]] for line in lines], result.boxes, atol=0.3
    )


def test_what_is_beside_a_file_is_kept(tmp_path, capsys):
    onnx = pytest.importorskip('onnx')
    from mmiformer.deploy import metadata

    (tmp_path / 'example.py').write_text('mine')
    graph = onnx.helper.make_graph([], 'empty', [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / 'net.onnx')
    info = dict.fromkeys(metadata._NEEDED, 1)
    metadata.save(tmp_path / 'net.onnx', info)
    assert metadata.load(tmp_path / 'net.onnx') == info
    assert (tmp_path / 'example.py').read_text() == 'mine' and (tmp_path / 'postprocess.py').is_file()
    assert 'example.py is another file, or was edited, and is kept' in capsys.readouterr().out


def test_folder_with_a_broken_image(run, run_tool, monkeypatch):
    monkeypatch.chdir(run)
    shutil.copytree('images', 'some', dirs_exist_ok=True)
    shutil.copy('images/a.png', 'some/b.png')
    Path('some/c.png').write_text('text')
    options = ('--save', 'csv', '--batch', 2, '--score-thr', 0.02)
    code, out, err = run_tool('predict', 'some', 'run', *options)
    assert code == 1 and '2 images in' in out
    assert '1 of 3 images could not be used, the first: some/c.png: not a readable image' in err
    rows = Path('work_dirs/predict/predictions.csv').read_text().splitlines()[1:]
    first, second = ([r.partition(',')[2] for r in rows if r.startswith(name)] for name in ('a.png', 'b.png'))
    assert first == second and first
    assert cv2.imread('work_dirs/predict/a.png').shape == (*SIZE, 3)


def test_faults_of_the_command_line(run, run_tool, monkeypatch):
    monkeypatch.chdir(run)
    Path('nothing').mkdir(exist_ok=True)
    Path('net.tflite').touch()
    for call, words in (
        (('images', 'nothing'), 'nothing: a work dir has one config, this folder has 0; name the config'),
        (
            ('images', 'run/config.py'),
            'run/config.py: no weights of the full model were released; train it with',
        ),
        (('images', 'net.tflite', 'x.pth'), 'net.tflite: an exported file has its weights; leave x.pth out'),
        (('images', 'run', '--config', 'x.py'), '--config x.py: run is no exported file'),
        (('clip.mp4', 'run', '--out', 'x.png'), '--out x.png: not the name of a video; name a folder'),
        (('images/a.png', 'run', '--out', 'images'), 'images/a.png: is what was predicted on'),
        (('images', 'run', '--batch', 0), '--batch 0: expected a positive number'),
    ):
        code, _, err = run_tool('predict', *call)
        assert code == 1 and words in err, err


def test_former_name(root):
    command = [sys.executable, root / 'tools/demo.py', '--help']
    assert 'source' in subprocess.run(command, capture_output=True, text=True, check=True).stdout
