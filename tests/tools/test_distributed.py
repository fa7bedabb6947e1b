"""Two processes on one machine, on CPUs over gloo, against one."""

import json
import math
import re
import subprocess
from pathlib import Path

import pytest
import torch
import two_processes
from launching import CONFIGS, OPTIONS, environment, free_port, start_as_slurm
from mmengine.config import Config

from mmiformer.apis.cli import load_config

# An odd number of images, which two processes cannot share evenly; of ImageNet's some of each class.
TESTED = dict(
    det=('test_dataloader.dataset.indices=7', 'test_evaluator.outfile_prefix={out}'),
    seg=('test_dataloader.dataset.indices=7',),
    cls=('test_dataloader.dataset.indices=[5,35,65,95,125,155,175]', 'test_dataloader.batch_size=2'),
)


def arguments_of_test(task: str, config: str, out: Path) -> list[str]:
    options = [*OPTIONS[task], *(option.format(out=out / 'result') for option in TESTED[task])]
    checkpoint = f'two_{task}/iter_2.pth'
    return [config, checkpoint, '--demo', '--work-dir', str(out), '--cfg-options', *options]


def on_demo_data(workplace: Path, config: str) -> Config:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        return load_config(config, demo=True)


@pytest.fixture(scope='module')
def configs(root, workplace) -> dict[str, str]:
    files = {task: str(root / file) for task, file in CONFIGS.items()}
    for file in files.values():
        on_demo_data(workplace, file)  # Here, where it need not be drawn again.
    return files


def arguments_of_training(task: str, config: str) -> list[str]:
    return [config, '--demo', '--work-dir', f'two_{task}', '--cfg-options', *OPTIONS[task]]


@pytest.fixture(scope='module')
def launched(root, workplace, configs) -> str:
    """What a short training of detection prints, started as a user does."""
    config, *arguments = arguments_of_training('det', configs['det'])
    done = subprocess.run(
        [root / 'tools/dist_train.sh', config, '2', *arguments],
        env=environment(PORT=free_port()),
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def by_epoch(configs, workplace) -> str:
    """A config of classification in two epochs on the miniature data, with ImageNet's schedule."""
    schedule = Config.fromfile(configs['cls']).param_scheduler
    for part, (begin, end) in zip(schedule, [(0, 1), (1, 2)], strict=True):
        part.update(begin=begin, end=end)
    cfg = on_demo_data(workplace, configs['cls'])
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
    cfg.param_scheduler = schedule
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.default_hooks.logger.interval = 1
    cfg.log_processor.by_epoch = True
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset.indices = 12
    cfg.val_dataloader.dataset.indices = 2
    cfg.dump(workplace / 'by_epoch.py')
    return 'by_epoch.py'


@pytest.fixture(scope='module')
def found(root, workplace, configs, launched, by_epoch, tmp_path_factory) -> tuple[Path, list[dict]]:
    """Folder that two processes of tests/two_processes.py wrote to, and what they found.

    They train two tasks as well: to start two processes for each takes longer than what they do.
    """
    out = tmp_path_factory.mktemp('found')
    saved = 'two_det/config.py'
    calls = [
        *(['train', *arguments_of_training(task, configs[task])] for task in ('seg', 'cls')),
        ['train', saved, '--resume', 'two_det/iter_1.pth', '--work-dir', 'two_resumed'],
        ['train', by_epoch, '--work-dir', 'two_by_epoch'],
        *(['test', *arguments_of_test(task, config, out / task)] for task, config in configs.items()),
    ]
    arguments = [root / 'tests/two_processes.py', out, *configs.values(), json.dumps(calls)]
    for rank, process in start_as_slurm(arguments, {0: workplace, 1: workplace}, out).items():
        assert process.wait(timeout=600) == 0, (out / f'{rank}.txt').read_text()[-3000:]
    return out, [torch.load(out / f'{rank}.pt', weights_only=False) for rank in range(2)]


def losses(run: Path) -> dict[int, dict]:
    lines = next(run.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return {record['step']: record for record in map(json.loads, lines) if 'loss' in record}


def printed_by(file: Path, work_dir: str) -> str:
    """The part of what one of two processes printed that is of the run in ``work_dir``."""
    _, *parts = re.split(two_processes.HEADING.format('(train|test) (.*)'), file.read_text())
    (part,) = (text for call, text in zip(parts[1::3], parts[2::3], strict=True) if f' {work_dir} ' in call)
    return part


@pytest.mark.parametrize('task', CONFIGS)
def test_a_launched_training_runs_on_cpus_and_one_process_prints(launched, found, workplace, task):
    printed = launched
    if task != 'det':
        printed = ''.join(printed_by(found[0] / f'{rank}.txt', f'two_{task}') for rank in range(2))
    run = workplace / f'two_{task}'
    for name in ('curves.png', 'predictions.png'):
        assert len(re.findall(rf'^\w+ +\S*{name}$', printed, re.M)) == 1 and (run / name).exists()
    assert len(re.findall('^data/demo/', printed, re.M)) == 1, 'the demo data is described once'
    log = next(run.glob('*/*.log')).read_text()
    for line in ('2 processes run on CPUs over gloo', 'Iter(train) [2/2]', 'Iter(val) [1/1]    '):
        assert log.count(line) == printed.count(line) >= 1
    assert 'SyncBN becomes BN' in log
    assert losses(run).keys() == {1, 2}


def test_settings_and_downloads(found):
    _, ranks = found
    assert [rank['timeout'] for rank in ranks] == [two_processes.TIMEOUT] * 2
    assert [len(rank['downloads']) for rank in ranks] == [1, 0], 'the second finds the file'


@pytest.mark.parametrize('task', ['cls', 'seg'])
def test_gradients_of_two_halves_are_those_of_the_whole(found, configs, task):
    _, ranks = found
    expected = two_processes.gradients(configs[task])
    half = two_processes.gradients(configs[task], slice(2))
    far = 0
    for name, gradient in expected.items():
        for rank in ranks:
            # Float64, summed in another order; some gradients are zero but for rounding.
            torch.testing.assert_close(rank[configs[task]][name], gradient, rtol=1e-9, atol=1e-12, msg=name)
        far += bool((half[name] - gradient).norm() > 0.1 * gradient.norm())
    assert far > 0.5 * len(expected), 'the halves differ'


def test_each_process_trains_on_its_own_images_reproducibly(found):
    _, ranks = found
    first, second = [rank['batches'][0] for rank in ranks]
    ids = lambda epoch: [x[0] for batch in epoch for x in batch]  # noqa: E731
    for run in ranks:
        assert run['batches'][0] == run['batches'][1], 'the same seed, the same images and flips'
    everything = sorted(ids(first[0]) + ids(second[0]))
    assert len(set(everything)) == two_processes.IMAGES
    for epoch in range(2):
        # mmengine's DefaultSampler: one order for all, dealt out in turn; then put together by orientation.
        generator = torch.Generator().manual_seed(two_processes.SEED + epoch)
        order = torch.randperm(two_processes.IMAGES, generator=generator)
        for rank, run in enumerate((first, second)):
            assert sorted(ids(run[epoch])) == sorted(everything[i] for i in order[rank::2])
            mixed = [len({w < h for _, (h, w), _ in batch}) > 1 for batch in run[epoch]]
            assert sum(mixed) <= 1, 'but for what is left over at the end'
    assert ids(first[0]) != ids(first[1])
    assert {x[2] for batch in first[0] for x in batch} == {True, False}


def test_two_processes_resume_exactly(found, workplace):
    whole, resumed = losses(workplace / 'two_det'), losses(workplace / 'two_resumed')
    assert resumed.keys() == {2}
    for key, value in whole[2].items():
        if 'loss' in key:  # Proposals are sampled at random.
            assert resumed[2][key] == value, key


@pytest.mark.parametrize(
    ('run', 'checkpoint', 'steps'),
    [('two_seg', 'iter_1.pth', {2}), ('two_by_epoch', 'epoch_1.pth', {4, 5, 6})],
)
def test_one_process_resumes_a_run_of_two(found, workplace, run_tool, run, checkpoint, steps):
    config = next((workplace / run).glob('*.py'))
    arguments = [config, '--resume', f'{run}/{checkpoint}', '--work-dir', f'one_{run}']
    code, _, err = run_tool('train', *arguments, '--cfg-options', 'train_dataloader.batch_size=4')
    assert code == 0, err[-3000:]
    whole, resumed = losses(workplace / run), losses(workplace / f'one_{run}')
    assert resumed.keys() == steps and max(whole) == max(steps)
    for step, record in resumed.items():
        assert record['lr'] == whole[step]['lr'] and record.get('epoch') == whole[step].get('epoch')
        assert math.isfinite(record['loss'])


@pytest.mark.parametrize('task', CONFIGS)
def test_two_processes_evaluate_as_one(found, configs, run_tool, tmp_path, monkeypatch, task):
    out, _ = found
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # As each of the two has: sums are to be taken in the same order.
    try:
        code, _, err = run_tool('test', *arguments_of_test(task, configs[task], tmp_path))
    finally:
        torch.set_num_threads(threads)
    assert code == 0, err[-3000:]
    one, two = (json.loads(next(folder.glob('*/*.json')).read_text()) for folder in (tmp_path, out / task))
    for metrics in (one, two):
        del metrics['time'], metrics['data_time']
    assert two == one
    if task == 'det':  # Hardly trained, it finds nothing that is there.
        boxes = [json.loads((folder / 'result.bbox.json').read_text()) for folder in (tmp_path, out / task)]
        assert boxes[0] == boxes[1] and len(boxes[0]) > 20
    else:
        assert 0 < one[dict(seg='mIoU', cls='accuracy/top1')[task]] < 100


def test_mistakes_of_launching(run_tool, config, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    code, _, err = run_tool('train', config, '--demo', '--launcher', 'pytorch')
    assert code == 1 and 'RANK is not set' in err and 'torchrun' in err and 'Traceback' not in err
    # Eight processes where there are four GPUs.
    monkeypatch.setattr('mmiformer.apis.cli.get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '7')
    code, _, err = run_tool('train', config, '--demo', '--launcher', 'pytorch')
    assert code == 1 and "'cuda:7'" in err and 'finds 4 CUDA devices' in err and 'one process a GPU' in err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='SyncBN has no kernels for the CPU')
def test_sync_bn_normalises_over_all_processes(tmp_path):
    """Over gloo, for which one GPU is enough; NCCL wants one for each process."""
    torch.multiprocessing.spawn(two_processes.sync_bn, (2, int(free_port()), str(tmp_path)), nprocs=2)
    model = two_processes.conv('BN')
    model(two_processes.images()).square().mean().backward()
    for rank in range(2):
        found = torch.load(tmp_path / f'{rank}.pt')
        for name, value in two_processes.state(model).items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)
