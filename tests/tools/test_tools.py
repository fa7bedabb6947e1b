"""The command lines, as a user types them, on the embedded miniature data."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import golden
import pytest
import torch
from helpers import NARROW, SHORT, Bomb
from mmengine.config import Config

from mmiformer.apis.cli import load_config
from mmiformer.apis.inference import build_model


def errors(result: tuple[int, str, str]) -> str:
    """The one sentence of a refused call."""
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert code == 1 and len(lines) == 1 and 'Traceback' not in err, err[-2000:]
    return lines[0]


@pytest.fixture
def demo_run(run_tool, config, trained, workplace) -> Path:
    """Work dir of a two-iteration ``--demo`` run."""
    if not trained:
        options = ['--demo', '--val-loss', '--work-dir', 'run', '--cfg-options', *SHORT]
        trained['result'] = run_tool('train', config, *options)
    return workplace / 'run'


def test_train_evaluates_draws_and_lists_its_files(demo_run, trained, root):
    code, out, err = trained['result']
    assert code == 0, err[-3000:]
    assert 'data/demo/coco: 360 training and 60 validation images of umbrella, kite' in out
    lines = out.strip().splitlines()[-6:]
    for line, name in zip(lines, ('curves.png', 'predictions.png', 'iter_2.pth'), strict=False):
        written = demo_run.parent / line.split()[-1]
        assert written.name == name and written.exists()
    config, checkpoint = 'run/config.py', 'run/best_coco_bbox_mAP_iter_2.pth'
    command = f'python {os.path.relpath(root / "tools/test.py")} {config} {checkpoint}'
    assert lines[3].split(maxsplit=1) == ['test', command]
    assert '│ 2         │' in out and 'best' in out and 'val_loss' in out  # The table of evaluations.
    assert 'System environment' not in err and 'Config:' not in err and 'paramwise' not in err
    for name in ('curves.png', 'predictions.png', 'training_images.png'):
        assert cv2.imread(str(demo_run / name)).std() > 5
    scalars = next(demo_run.glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert any('coco/segm_mAP' in json.loads(line) for line in scalars)
    model = build_model(load_config(str(demo_run / 'config.py')), None)
    parameters = f'{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M'
    log = next(demo_run.glob('*/*.log')).read_text()
    assert 'data      8 training and 2 validation images; 4 classes: umbrella, kite' in log
    assert 'System environment' in log and 'Config:' in log
    assert f'A step of 2 images: {parameters} parameters ({parameters} trained), memory' in log


def test_demo_changes_data_and_schedule_never_the_network(demo_run, config):
    full, short = load_config(config, NARROW), load_config(str(next(demo_run.glob('*.py'))))
    full_model, short_model = full.model.to_dict(), short.model.to_dict()
    for model in (full_model, short_model):
        model['backbone'].pop('init_cfg', None)
        model['backbone'].pop('norm_eval')
        for head in ('bbox_head', 'mask_head'):
            model['roi_head'][head].pop('num_classes')
        model.pop('train_cfg'), model.pop('test_cfg')
    assert full_model == short_model
    assert short.model.backbone.norm_eval is False and short.model.backbone.get('init_cfg') is None


def test_resume_continues_after_the_checkpoint(demo_run, run_tool, config, workplace):
    shutil.copytree(demo_run, workplace / 'resumed', dirs_exist_ok=True)
    before = {file: file.read_bytes() for file in (workplace / 'resumed').iterdir() if file.is_file()}
    again = ['train', config, '--demo', '--work-dir', 'resumed', '--cfg-options', *SHORT]
    assert 'resumed/iter_2.pth: is a checkpoint of an earlier run' in errors(run_tool(*again))
    assert all(file.read_bytes() == content for file, content in before.items()), 'nothing is overwritten'
    longer = [o for o in SHORT if 'max_iters' not in o] + [
        'train_cfg.max_iters=3',
        'train_cfg.val_interval=9',
        'randomness.seed=5',
    ]
    code, out, err = run_tool(
        'train', config, '--demo', '--resume', '--work-dir', 'resumed', '--cfg-options', *longer
    )
    assert code == 0, err[-3000:]
    assert 'continues with the original seed 0, not 5' in out
    saved = Config.fromfile(workplace / 'resumed/config.py')
    assert (saved.train_cfg.max_iters, saved.randomness.seed) == (3, 0)
    assert (saved.resume, saved.load_from) == (False, None)
    log = sorted((workplace / 'resumed').glob('*/*.log'))[-1].read_text()
    assert (
        'resumed epoch: 0, iter: 2' in log and 'Iter(train) [3/3]' in log and 'Iter(train) [1/3]' not in log
    )
    before = torch.load(workplace / 'resumed' / 'iter_2.pth', weights_only=False)
    after = torch.load(workplace / 'resumed' / 'iter_3.pth', weights_only=False)
    step = lambda c: next(iter(c['optimizer']['state'].values()))['step']  # noqa: E731
    assert float(step(before)) == 2 and float(step(after)) == 3


def test_nan_stops_the_run_before_a_checkpoint_is_saved(run_tool, config, workplace, demo_run):
    options = ['--cfg-options', *SHORT, 'optim_wrapper.optimizer.lr=1e35', 'randomness.seed=1']
    sentence = errors(run_tool('train', config, '--demo', '--work-dir', 'nan', *options))
    named = re.search(r'step 2: loss\w+ is \w+, .*first in (backbone[\w.]+) \((\w+)\)', sentence)
    module = build_model(load_config(config, demo=True), None).get_submodule(named[1])
    assert type(module).__name__ == named[2] and 'train2017' in sentence
    assert [file.name for file in (workplace / 'nan').glob('*.pth')] == ['iter_1.pth']
    weights = torch.load(workplace / 'nan/iter_1.pth', weights_only=False)['state_dict']
    assert all(bool(value.isfinite().all()) for value in weights.values())
    options += ['train_cfg.val_interval=9']
    code, _, err = run_tool('train', config, '--demo', '--work-dir', 'nan2', '--allow-nan', *options)
    assert code == 0, err[-3000:]
    log = next((workplace / 'nan2').glob('*/*.log')).read_text()
    assert f'first in {named[1]}' in log and 'Iter(train) [2/2]' in log


def test_test_and_demo_use_the_checkpoint(demo_run, run_tool, config, workplace):
    code, out, err = run_tool(
        'test', config, demo_run / 'iter_2.pth', '--demo', '--work-dir', 'tested', '--cfg-options', *SHORT
    )
    assert code == 0, err[-3000:]
    found = json.loads(next((workplace / 'tested').glob('*/*.json')).read_text())
    scalars = [json.loads(x) for x in next(demo_run.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    expected = next(s for s in scalars if 'coco/bbox_mAP' in s)
    assert found['coco/bbox_mAP'] == pytest.approx(expected['coco/bbox_mAP'], abs=2e-3)

    image = next((workplace / 'data/demo/coco/val2017').iterdir())
    saved = next(demo_run.glob('*.py'))
    code, out, err = run_tool(
        'predict', image, saved, demo_run / 'iter_2.pth', '--out', 'seen.png', '--score-thr', 0
    )
    assert code == 0 and 'seen.png' in out, err[-3000:]
    picture, original = cv2.imread(str(workplace / 'seen.png')), cv2.imread(str(image))
    assert picture.shape == original.shape and (picture != original).any()


def official_detector(tmp_path: Path, config: str) -> tuple[Path, dict]:
    """A complete Mask R-CNN checkpoint like the authors': their backbone names, mmdet's neck and heads."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = load_config(config.replace('_t_', '_m_'))
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    shapes = {k: list(v.shape) for k, v in MODELS.build(cfg.model).state_dict().items()}
    rest = {k: golden.made_up(k, s) for k, s in shapes.items() if not k.startswith('backbone.')}
    weights = {f'backbone.{k}': v for k, v in golden.state_dict('det_m').items()} | rest
    meta = dict(dataset_meta=dict(CLASSES=('person',)), epoch=12)
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / 'iFormer_m_epoch_12.pth')
    return tmp_path / 'iFormer_m_epoch_12.pth', weights


def test_a_complete_official_detector_loads_exactly(tmp_path, config, run_tool):
    file, weights = official_detector(tmp_path, config)
    model = build_model(load_config(config.replace('_t_', '_m_')), str(file))  # Strict.
    loaded = model.state_dict()
    assert len(loaded) == len(weights)
    torch.testing.assert_close(loaded['rpn_head.rpn_conv.weight'], weights['rpn_head.rpn_conv.weight'])
    torch.testing.assert_close(
        loaded['backbone.stages.2.blocks.10.q.conv.weight'],
        weights['backbone.stages.2.10.block.token_channel_mixer.m.q.c.weight'],
    )
    code, out, _ = run_tool('convert_checkpoint', file, tmp_path / 'ours.pth')
    assert code == 0 and "the authors' names" in out and 'arch: m' in out
    again = build_model(load_config(config.replace('_t_', '_m_')), str(tmp_path / 'ours.pth')).state_dict()
    assert all(torch.equal(again[k], v) for k, v in loaded.items())
    # Folded, the detector still computes the same.
    from mmiformer.deploy import fold

    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(fold(model).extract_feat(image), model.extract_feat(image), strict=True):
            assert float((a - b).norm() / b.norm()) < 1e-5
    # And a config of another size refuses it, by both names.
    options = ['--demo', '--work-dir', 'other', '--cfg-options', *(o for o in SHORT if 'fc_out' not in o)]
    sentence = errors(run_tool('test', config, file, *options))
    assert str(file) in sentence and "arch='t'" in sentence and "arch 'm'" in sentence
    sentence = errors(run_tool('test', config.replace('_t_', '_m_'), file, *options))
    assert str(file) in sentence and 'fc_cls' in sentence, 'heads of 80 classes do not fit 4'


def test_convert_to_safetensors_and_what_it_refuses(tmp_path, run_tool):
    torch.save(dict(model=golden.state_dict('cls_t')), tmp_path / 'iFormer_t.pth')
    code, out, err = run_tool('convert_checkpoint', tmp_path / 'iFormer_t.pth', tmp_path / 't.safetensors')
    assert code == 0 and '451 tensors' in out, err
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'other.pth')
    call = lambda src, dst: errors(run_tool('convert_checkpoint', tmp_path / src, tmp_path / dst))  # noqa: E731
    assert 'holds no network of this package' in call('other.pth', 'x.pth')
    assert '.safetensors' in call('iFormer_t.pth', 'x.txt')
    assert 'folder does not exist' in call('iFormer_t.pth', 'nowhere/x.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'iFormer_t.pth').read_bytes()[:5000])
    assert 'truncated' in call('cut.pth', 'x.pth')
    (tmp_path / 'text.pth').write_text('hello')
    assert 'not a checkpoint' in call('text.pth', 'x.pth')
    assert not (tmp_path / 'x.pth').exists()


def test_no_tool_runs_the_code_in_a_checkpoint(tmp_path, run_tool, config, demo_run, workplace):
    file, mark = tmp_path / 'bomb.pth', tmp_path / 'mark'
    honest = torch.load(demo_run / 'iter_2.pth', weights_only=False)
    torch.save({**honest, 'evil': Bomb(mark)}, file)
    torch.load(file, weights_only=False)
    assert mark.is_dir(), 'the file is live'
    mark.rmdir()
    image = next((workplace / 'data/demo/coco/val2017').iterdir())
    options = ['--demo', '--work-dir', 'bombed', '--cfg-options', *SHORT]
    for call in (
        ('test', config, file, *options),
        ('predict', image, next(demo_run.glob('*.py')), file),
        ('convert_checkpoint', file, tmp_path / 'out.pth'),
        ('train', config, '--resume', file, *options),
        ('train', config, *options, f'load_from={file}'),
        (
            'train',
            config,
            *options,
            'model.backbone.init_cfg.type=Pretrained',
            f'model.backbone.init_cfg.checkpoint={file}',
        ),
    ):
        sentence = errors(run_tool(*call))
        assert 'would run code' in sentence and str(file) in sentence, call
        assert not mark.exists(), call


def test_missing_things_are_one_sentence_with_the_ways_out(run_tool, config, demo_run, tmp_path):
    sentence = errors(run_tool('train', config))
    assert 'data/coco/' in sentence and 'MMIFORMER_DATA' in sentence and '--demo' in sentence
    assert 'data/coco/' in errors(run_tool('test', config, demo_run / 'iter_2.pth'))
    assert "config 'nowhere.py': no such file" in errors(run_tool('train', 'nowhere.py', '--demo'))
    (tmp_path / 'broken.py').write_text('model = dict(\n')
    assert 'broken.py: not a config' in errors(run_tool('train', tmp_path / 'broken.py'))
    options = ['--demo', '--work-dir', 'missing', '--cfg-options', *SHORT]
    assert 'nowhere.pth: no such checkpoint' in errors(run_tool('test', config, 'nowhere.pth', *options))
    assert 'nowhere.pth: no such checkpoint' in errors(
        run_tool('train', config, '--resume', 'nowhere.pth', *options)
    )
    torch.save(dict(state_dict={'w': torch.ones(1)}), tmp_path / 'weights.pth')
    assert 'load_from=' in errors(run_tool('train', config, '--resume', tmp_path / 'weights.pth', *options))
    seven = [*options, 'model.roi_head.bbox_head.num_classes=7']
    assert 'bbox_head.num_classes: 7, but the train_dataloader has 4 classes' in errors(
        run_tool('train', config, *seven)
    )
    narrow = [*options, 'model.roi_head.bbox_head.fc_out_channels=512']
    sentence = errors(run_tool('train', config, '--resume', demo_run / 'iter_2.pth', *narrow))
    assert 'iter_2.pth: does not fit the MaskRCNN' in sentence and 'fc_cls' in sentence
    sentence = errors(run_tool('predict', 'x.jpg', config, demo_run / 'iter_2.pth'))
    assert 'x.jpg: no such file or folder' in sentence
    assert "arch='xl'" in errors(run_tool('train', config, *options, 'model.backbone.arch=xl'))
    nowhere = ('--demo', '--work-dir', tmp_path / 'broken.py' / 'run', '--cfg-options', *SHORT)
    assert 'broken.py/run: cannot be made a folder (Not a directory)' in errors(
        run_tool('train', config, *nowhere)
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
def test_a_gpu_that_is_not_there(run_tool, config, demo_run):
    saved, file = next(demo_run.glob('*.py')), demo_run / 'iter_2.pth'
    assert 'finds 0 CUDA devices' in errors(run_tool('predict', 'x.jpg', saved, file, '--device', 'cuda:0'))
    assert 'unknown' in errors(run_tool('predict', 'x.jpg', saved, file, '--device', 'gpu'))


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
def test_amp_without_a_gpu_trains_in_bfloat16(run_tool, config, demo_run, workplace):
    once = [o for o in SHORT if 'max_iters' not in o] + ['train_cfg.max_iters=1', 'train_cfg.val_interval=2']
    code, _, err = run_tool('train', config, '--demo', '--amp', '--work-dir', 'amp', '--cfg-options', *once)
    assert code == 0, err[-3000:]
    files = (next(run.glob('*/vis_data/scalars.json')) for run in (demo_run, workplace / 'amp'))
    exact, rounded = (json.loads(file.read_text().splitlines()[0])['loss_rpn_cls'] for file in files)
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize('fault', ['truncated', 'missing'])
def test_a_broken_training_image_is_named(run_tool, config, demo_run, workplace, fault):
    folder = workplace / 'data/demo/coco/train2017'
    victim = sorted(folder.iterdir())[0]
    original = victim.read_bytes()
    try:
        if fault == 'truncated':
            victim.write_bytes(original[: len(original) // 2])
        else:
            victim.unlink()
        options = [*SHORT, 'train_dataloader.dataset.indices=2', 'train_dataloader.num_workers=1']
        sentence = errors(
            run_tool('train', config, '--demo', '--work-dir', 'broken', '--cfg-options', *options)
        )
        assert victim.name in sentence
    finally:
        victim.write_bytes(original)


def test_broken_annotations_are_named(run_tool, config, demo_run, workplace):
    folder = workplace / 'data/demo/coco/annotations'
    content = json.loads((folder / 'instances_val2017.json').read_text())
    content['annotations'][3]['bbox'][0] = float('nan')
    (folder / 'nan.json').write_text(json.dumps(content))
    wrong = 'test_dataloader.dataset.ann_file=annotations/nan.json'
    metric = f'test_evaluator.ann_file={folder / "nan.json"}'
    options = [config, demo_run / 'iter_2.pth', '--demo', '--cfg-options', *SHORT, wrong]
    assert 'test_evaluator.ann_file: ' in errors(run_tool('test', *options))
    sentence = errors(run_tool('test', *options, metric))
    assert sentence.startswith('error: data/demo/coco/annotations/nan.json: has the annotation {')
    assert 'a bbox of four numbers' in sentence


def test_a_broken_image_is_named_by_the_demo(run_tool, config, demo_run, tmp_path):
    saved, weights = next(demo_run.glob('*.py')), demo_run / 'iter_2.pth'
    (tmp_path / 'two\nlines.jpg').write_bytes(b'\xff\xd8' * 50)
    call = run_tool('predict', tmp_path / 'two\nlines.jpg', saved, weights)
    assert errors(call).startswith(f'error: {tmp_path}/two lines.jpg: truncated JPEG')


def test_an_error_in_a_new_process_has_no_traceback(root, tmp_path):
    env = {k: v for k, v in os.environ.items() if k != 'MMIFORMER_DATA'} | {'PYTHONPATH': str(root)}
    command = [sys.executable, root / 'tools/train.py', 'nowhere.py']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: config 'nowhere.py': no such file")


@pytest.mark.parametrize('arguments', [('train', 'a.py'), ('check_data', 'coco')])
def test_ctrl_c_during_the_imports_has_no_traceback(root, tmp_path, arguments):
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine/__init__.py').write_text(
        "import time; print('importing', flush=True); time.sleep(60)"
    )
    tool, *others = arguments
    command = [sys.executable, root / f'tools/{tool}.py', *others]
    env = os.environ | {'PYTHONPATH': f'{tmp_path}{os.pathsep}{root}'}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Jobs in the background ignore SIGINT, and what they start.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, env=env, preexec_fn=heeding, **pipes) as process:
        assert process.stdout.readline() == 'importing\n'
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ('', '') and process.returncode == -signal.SIGINT


def test_every_tool_helps(run_tool):
    for tool in ('train', 'test', 'predict', 'convert_checkpoint', 'class_shares'):
        code, out, _ = run_tool(tool, '--help')
        assert code == 0 and out.startswith('usage:')
