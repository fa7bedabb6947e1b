import json
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path

import cv2
import golden
import numpy as np
import pytest
import torch

from mmiformer.apis.cli import load_config
from mmiformer.datasets.toy import imagenet

# A run that is over in seconds.
SHORT = (
    'train_cfg.max_iters=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
    'log_processor.window_size=1',  # A resumed run's means begin anew.
    'train_dataloader.batch_size=8',
    'val_dataloader.dataset.indices=12',
    'test_dataloader.dataset.indices=12',
)


@pytest.fixture
def cls_config(root):
    return lambda name: str(root / f'configs/classification/{name}.py')


def train(run_tool, config: str, work_dir: str, *options: str, overrides: tuple = ()) -> tuple[str, Path]:
    code, out, err = run_tool(
        'train', config, '--demo', '--work-dir', work_dir, *options, '--cfg-options', *SHORT, *overrides
    )
    assert code == 0, err[-3000:]
    return out, Path(work_dir)


def losses(run: Path) -> dict[int, dict]:
    """The last record of each training step."""
    records: dict[int, dict] = {}
    for file in sorted(run.glob('*/vis_data/scalars.json')):
        for line in map(json.loads, file.read_text().splitlines()):
            if 'loss' in line:
                records[line['step']] = line
    return records


@pytest.fixture(scope='module')
def runs() -> dict[str, tuple[str, Path]]:
    """What was printed and left by a short ``--demo`` run of each config that was trained."""
    return {}


@pytest.fixture
def demo_run(run_tool, cls_config, workplace, runs) -> Callable[[str], tuple[str, Path]]:
    def get(name: str) -> tuple[str, Path]:
        if name not in runs:
            runs[name] = train(run_tool, cls_config(name), f'run_{name}')
        return runs[name]

    return get


@pytest.mark.parametrize('name', ['iformer_t_in1k', 'iformer_t_distill_in1k'])
def test_demo_trains_evaluates_draws_and_tests(demo_run, run_tool, cls_config, name):
    out, run = demo_run(name)
    assert 'data/demo/imagenet: 900 training and 180 validation images of analog clock, barn' in out
    for picture in ('curves.png', 'predictions.png'):
        assert cv2.imread(str(run / picture)).std() > 5
    records = losses(run)
    assert ('loss_teacher' in records[4]) == ('distill' in name)
    # What is saved has neither the teacher nor its name, and tests without it.
    saved = torch.load(run / 'iter_4.pth', weights_only=False)['state_dict']
    assert {k.split('.')[0] for k in saved} <= {'backbone', 'head'}
    config, of_the_run = run / 'config.py', (run / 'config.py').read_bytes()
    code, out, err = run_tool('test', config, run / 'iter_4.pth', '--work-dir', run, '--limit', 4)
    assert code == 0 and 'accuracy/top1' in out + err, err[-3000:]
    assert config.read_bytes() == of_the_run, 'predict, export and --resume read it'


def test_demo_prints_and_draws_the_five_best(demo_run, run_tool):
    _, run = demo_run('iformer_t_in1k')
    image = next(Path('data/demo/imagenet/val').rglob('*.JPEG'))
    saved = next(run.glob('*.py'))
    code, out, err = run_tool('predict', image, saved, run / 'iter_4.pth', '--out', 'new/folder/five.png')
    assert code == 0, err[-3000:]
    rows = [line for line in out.splitlines() if '%' in line]
    assert len(rows) == 5 and all(any(c in row for c in imagenet.CLASSES) for row in rows)
    shares = [float(row.split('%')[0].split()[-1]) for row in rows]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100.3
    assert cv2.imread('new/folder/five.png').std() > 5


@pytest.mark.parametrize('name', ['cls_t', 'cls_m_distill'])
def test_official_files_are_tested_as_they_are_and_converted(run_tool, cls_config, workplace, tmp_path, name):
    """The same top-1 from the file as it is, from the converted one, and from the logits."""
    source = tmp_path / 'official.pth'
    torch.save(dict(model=golden.state_dict(name)), source)
    config = cls_config(name.replace('cls_', 'iformer_') + '_in1k')
    # Real labels would need ImageNet: a thousand folders with an image in a few of them do not.
    folders = [f'n{i:08d}' for i in range(1000)]
    lines = []
    for i in range(3):
        (tmp_path / 'val' / folders[i]).mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / 'val' / folders[i] / f'{i}.JPEG'), cv2.resize(pixels, (300, 260)))
        lines.append(f'{folders[i]}/{i}.JPEG')
    from mmiformer.apis.inference import build_model, predict

    model = build_model(load_config(config), str(source))
    labels = [int(predict(model, load_config(config), tmp_path / 'val' / x).pred_label) for x in lines]
    labels[2] = (labels[2] + 1) % 1000  # One of three is wrong.
    (tmp_path / 'val.txt').write_text(''.join(f'{x} {y}\n' for x, y in zip(lines, labels, strict=True)))
    options = [
        f'test_dataloader.dataset.data_root={tmp_path}/',
        'test_dataloader.dataset.ann_file=val.txt',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    ]
    converted = tmp_path / 'ours.pth'
    assert run_tool('convert_checkpoint', source, converted)[0] == 0
    for file in (source, converted):
        work_dir = tmp_path / f'test_{file.stem}'
        code, _, err = run_tool('test', config, file, '--work-dir', work_dir, '--cfg-options', *options)
        assert code == 0, err[-3000:]
        metrics = json.loads(next(work_dir.glob('*/*.json')).read_text())
        assert metrics['accuracy/top1'] == pytest.approx(200 / 3, abs=1e-3)


@pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])
def test_a_resumed_distilled_run_goes_on_as_if_it_had_not_stopped(run_tool, cls_config, workplace, by_epoch):
    """With all that draws random numbers: crops, RandAugment, erasing, mixup, drop path, new workers."""
    cfg = load_config(cls_config('iformer_t_distill_in1k'), demo=True)
    cfg.merge_from_dict({k: literal_eval(v) for k, v in (x.split('=') for x in SHORT)})
    cfg.model.backbone.drop_path_rate = 0.1
    if by_epoch:
        cfg.train_cfg = dict(by_epoch=True, max_epochs=2)
        cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
        cfg.train_dataloader.dataset.indices = 16
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    name = f'resumed_{by_epoch}'
    cfg.dump(f'{name}.py')
    half = f'train_cfg.{"max_epochs=1" if by_epoch else "max_iters=2"}'
    for arguments in (
        ('--work-dir', f'{name}_whole'),
        ('--work-dir', name, '--cfg-options', half),
        ('--work-dir', name, '--resume'),
    ):
        code, _, err = run_tool('train', f'{name}.py', *arguments)
        assert code == 0, err[-3000:]
    expected, found = losses(Path(f'{name}_whole')), losses(Path(name))
    assert expected.keys() == found.keys() == {1, 2, 3, 4}
    for step in expected:
        for key in ('loss', 'loss_label', 'loss_teacher', 'lr'):
            assert found[step][key] == expected[step][key], (step, key)
    assert len({record['loss_teacher'] for record in expected.values()}) == 4


def test_a_missing_class_and_a_broken_image_stop_the_run_by_name(demo_run, run_tool, cls_config):
    config = cls_config('iformer_t_in1k')
    demo_run('iformer_t_in1k')  # So that the data is there.
    folder = Path('data/demo/imagenet/val/n02793495')
    hidden = folder.rename(folder.parent.parent / 'hidden')
    arguments = (config, '--demo', '--work-dir', 'bad', '--cfg-options', *SHORT)
    try:
        code, _, err = run_tool('train', *arguments)
        assert code == 1 and err.count('\n') == 1
        assert 'imagenet/val: has 5 class folders, but the dataset declares 6 classes' in err
    finally:
        hidden.rename(folder)
    image = min(Path('data/demo/imagenet/train/n02708093').glob('*.JPEG'))
    original = image.read_bytes()
    image.write_bytes(original[: len(original) // 2])
    try:
        code, _, err = run_tool('train', *arguments, 'train_dataloader.dataset.indices=7')
        assert code == 1 and '7 images are less than a batch of 8' in err
        code, _, err = run_tool('train', *arguments, 'train_dataloader.dataset.indices=8')
        assert code == 1 and f'{image.name}: truncated JPEG' in err
    finally:
        image.write_bytes(original)


def test_real_cells_train_and_evaluate(run_tool, cls_config, workplace, real_data, monkeypatch):
    if not (real_data / 'cells').is_dir():
        pytest.skip(f'no cells in {real_data}')
    monkeypatch.setenv('MMIFORMER_DATA', str(real_data))
    options = [
        f'{s}_dataloader.{o}' for s in ('train', 'val') for o in ('num_workers=0', 'persistent_workers=0')
    ]
    options += ['train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=64']
    code, _, err = run_tool(
        'train', cls_config('iformer_t_cells'), '--work-dir', 'cells', '--cfg-options', *options
    )
    assert code == 0, err[-3000:]
    scalars = next(Path('cells').glob('*/vis_data/scalars.json')).read_text()
    assert '"accuracy/top1"' in scalars
