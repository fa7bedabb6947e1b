import multiprocessing
import os
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import mmengine.device.utils
import pytest
import torch
from launching import environment, free_port
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mmiformer.engine import CheckFiniteHook, distributed
from mmiformer.engine.first_steps import FirstStepsHook
from mmiformer.engine.seeding import SeedStepHook
from mmiformer.utils.errors import UserError


class Sqrt(nn.Module):
    """Its gradient at zero is infinite."""

    def forward(self, x):
        return (x - x.detach()).sqrt() + x


class Log(nn.Module):
    def forward(self, x):
        return (x - x.detach() - 1).log()


class SometimesNaN(nn.Module):
    """Gives NaN for about half of Python's random numbers."""

    def forward(self, x):
        return x * float('nan') if random.random() < 0.5 else x


class Pair(nn.Module):
    """Returns infinity because of its own code, between two modules that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.second(self.first(x) / 0)


class Network(BaseModel):
    def __init__(self, fault: nn.Module, in_loss: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Identity(), fault)
        self.head = nn.Conv2d(4, 2, 1)
        self.in_loss = in_loss

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.head(self.body(self.stem(torch.stack(inputs) if isinstance(inputs, list) else inputs)))
        if self.in_loss:
            x = (x - x.detach()).sqrt()
        # What is not a loss may be anything.
        return dict(loss_a=x.square().mean(), loss_b=[x.mean() * 0.1], acc=torch.tensor(float('nan')))


@DATASETS.register_module()
class Noise(BaseDataset):
    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad
        super().__init__()

    def load_data_list(self) -> list[dict]:
        return [dict(number=i) for i in range(8)]

    def prepare_data(self, index):
        image = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index))
        if index == self.bad:
            image[0, 0, 0] = float('inf')
        return dict(inputs=image, data_samples=BaseDataElement(metainfo=dict(img_path=f'{index}.jpg')))


def train(
    work_dir: Path,
    model: nn.Module,
    steps: int = 4,
    stop: bool = True,
    bad: int | None = None,
    custom_hooks: list | None = None,
    **hooks,
) -> Runner:
    runner = Runner(
        model,
        str(work_dir),
        dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='Noise', bad=bad),
            collate_fn=dict(type='pseudo_collate'),
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        train_cfg=dict(by_epoch=False, max_iters=steps),
        default_hooks=dict(checkpoint=None, finite=CheckFiniteHook(stop)) | hooks,
        custom_hooks=custom_hooks,
        experiment_name=work_dir.name,
        randomness=dict(seed=0),
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    'model, expected',
    [
        (Network(Log()), 'loss_a is nan, loss_b is nan, first in body.1 (Log) (images 0.jpg, 1.jpg)'),
        (Network(Pair()), ', first in body.1 (Pair) (images'),
        (Network(Sqrt()), 'gradients of 4 parameters are not finite, last in stem.1.bias (images 0.jpg'),
        (
            Network(nn.Identity(), in_loss=True),
            'gradients of 6 parameters are not finite, last in head.bias (images',
        ),
    ],
    ids=['forward', 'own code', 'backward', 'loss'],
)
def test_the_module_is_named_and_the_weights_are_unchanged(tmp_path, model, expected):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match='^step 1: ') as error:
        train(tmp_path, model)
    assert expected in str(error.value) and '--allow-nan' in str(error.value)
    after = model.state_dict()
    for name, _ in model.named_parameters():
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    assert after['stem.1.num_batches_tracked'] == 1, 'the repeated step changes no buffers'


def test_bad_weights_are_named(tmp_path):
    model = Network(nn.Conv2d(4, 4, 1))
    with torch.no_grad():
        model.body[1].bias[2] = float('inf')
    with pytest.raises(UserError, match=r'first in body.1 \(Conv2d\), whose bias is not finite'):
        train(tmp_path, model)


def test_a_bad_batch_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r'step 2: .*because the batch itself is not finite \(images 2.jpg, 3.jpg\)'
    ):
        train(tmp_path, Network(nn.Identity()), bad=2)


def test_a_repeated_step_has_the_same_random_numbers(tmp_path):
    for seed in range(6):
        random.seed(seed)
        with pytest.raises(UserError, match=r'first in body.1 \(SometimesNaN\)'):
            train(tmp_path / str(seed), Network(SometimesNaN()), steps=40, custom_hooks=[SeedStepHook()])


def test_it_warns_once_where_nan_is_allowed(tmp_path, caplog):
    runner = train(tmp_path, Network(Log()), stop=False)
    assert runner.iter == 4
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('first in body.1 (Log)') == log.count('step ') == 1


def test_a_fused_optimiser_under_a_loss_scaler_may_skip_a_step(tmp_path):
    model = Network(nn.Identity())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    run = SimpleNamespace(model=model, optim_wrapper=OptimWrapper(optimizer), iter=0, work_dir=tmp_path)
    CheckFiniteHook().before_train(run)
    scaler = torch.amp.GradScaler('cpu')
    scaler.scale(model.head.weight.sum() * float('inf')).backward()
    before = model.head.weight.clone()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.head.weight, before) and scaler.get_scale() < 65536
    with pytest.raises(UserError, match='gradients of 1 parameters are not finite, last in head.weight'):
        optimizer.step()


def with_bad_buffer() -> Network:
    model = Network(nn.Identity())
    model.register_buffer('unused', torch.tensor([1.0, float('nan')]))
    return model


def every(interval: int) -> dict:
    return dict(type='AtomicCheckpointHook', by_epoch=False, interval=interval)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(UserError, match='step 2: unused in the checkpoint is not finite'):
        train(tmp_path, with_bad_buffer(), checkpoint=every(2))
    assert not list(tmp_path.glob('*.pth'))


def test_a_finite_run_is_unchanged(tmp_path):
    runs = []
    alone = dict(finite=dict(type='IterTimerHook'))
    for name, hooks in dict(watched=dict(custom_hooks=[FirstStepsHook()]), alone=alone).items():
        torch.manual_seed(1)
        model = Network(nn.Dropout(0.5))
        train(tmp_path / name, model, steps=12, **hooks)
        runs.append(model.state_dict())
    assert ' images a second; 0:00:00 left' in next(tmp_path.glob('watched/*/*.log')).read_text()
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name


def one_of_two(rank: int, port: str, folder: Path) -> None:
    """Trains; image 5 is in the second batch of rank 1."""
    with (folder / f'{rank}.txt').open('w') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, 'w', closefd=False), os.fdopen(2, 'w', closefd=False)
    torch.set_num_threads(1)
    mmengine.device.utils.DEVICE = 'cpu'
    os.environ.update(environment(SLURM_NTASKS=2, SLURM_NODELIST='localhost', SLURM_PROCID=rank))
    os.environ.update(SLURM_LOCALID=str(rank), MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    distributed.start('slurm', dict(dist_cfg=dict(backend='gloo', timeout=20)))
    train(folder / 'run', with_bad_buffer(), stop=False, bad=5, checkpoint=every(1))


def test_two_processes_stay_synchronised_although_only_one_of_them_saves(tmp_path):
    # Forked, as data workers are, since new ones import for seconds.
    fork, port = multiprocessing.get_context('fork'), free_port()
    processes = [fork.Process(target=one_of_two, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for rank, process in enumerate(processes):
        process.join(120)
        assert process.exitcode == 0, (tmp_path / f'{rank}.txt').read_text()[-3000:]
    warnings = re.findall('step .*; training continues', (tmp_path / '0.txt').read_text())
    assert warnings[0] == 'step 1: unused in the checkpoint is not finite; training continues'
    assert warnings[1].startswith('step 2: a loss of another process is not finite')
    assert len(warnings) == 5, 'one of the steps and one of each checkpoint'
    assert len(list(tmp_path.glob('run/*.pth'))) == 4
