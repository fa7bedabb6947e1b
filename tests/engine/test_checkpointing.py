import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS
from mmengine.structures import BaseDataElement

from mmiformer.engine.resuming import _latest_intact
from mmiformer.engine.runner import Runner
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write

SCORES = [1, 3, 2, 4]  # Of the validations, in turn.


class Stopped(Exception):
    """Ends the run as a kill would."""


@DATASETS.register_module()
class Fours(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [dict(number=float(i)) for i in range(4)]


@METRICS.register_module()
class Score(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict[str, float]:
        return dict(score=np.float64(SCORES[len(list(Path('.').glob('validated*')))]))  # As mmseg's.


class Line(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, number, sample_idx=None, mode='tensor'):
        errors = self.slope * torch.tensor(number) - 1
        return dict(loss=errors.square().mean()) if mode == 'loss' else [BaseDataElement()]


class Steps(Hook):
    """Records the validations, and stops before or after one of them."""

    priority = 'LOWEST'

    def __init__(self, stop_before: int | None, stop_after: int | None) -> None:
        self.stop_before = stop_before
        self.stop_after = stop_after

    def before_val(self, runner) -> None:
        if runner.iter == self.stop_before:
            raise Stopped

    def after_val(self, runner) -> None:
        if runner.iter == self.stop_after:
            raise Stopped
        Path(f'validated_{runner.iter}').touch()


def runner(
    stop_before: int | None = None,
    stop_after: int | None = None,
    resume: bool = False,
    default_hooks: dict | None = None,
    **checkpoint,
) -> Runner:
    loader = dict(
        batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dict(type='Fours')
    )
    validation = dict(loader, sampler=dict(type='DefaultSampler'))
    hook = dict(type='AtomicCheckpointHook', by_epoch=False, interval=1, **checkpoint)
    made = Runner(
        Line(),
        'run',
        loader,
        validation,
        train_cfg=dict(by_epoch=False, max_iters=4, val_interval=1),
        val_cfg=dict(),
        val_evaluator=dict(type='Score'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        param_scheduler=dict(type='LinearLR', start_factor=1.0, begin=0, end=4, by_epoch=False),
        default_hooks=dict(checkpoint=hook) | (default_hooks or {}),
        custom_hooks=[Steps(stop_before, stop_after)],
        resume=resume,
        load_from=_latest_intact(Path('run'))[0] if resume else None,
        randomness=dict(seed=0),
        experiment_name=f'{Path.cwd().name}_{resume}',
    )
    made.val_dataloader  # noqa: B018  Built now: a loop is named "val_loop" only then.
    return made


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def names() -> list[str]:
    return sorted(path.name for path in Path('run').glob('*.pth'))


def latest() -> str | None:
    found = _latest_intact(Path('run'))
    return found and Path(found[0]).name


def test_older_checkpoints_are_removed():
    runner(max_keep_ckpts=2, save_best='score', rule='greater').train()
    assert names() == ['best_score_iter_4.pth', 'iter_3.pth', 'iter_4.pth']
    assert Path('run/last_checkpoint').read_text() == str(Path('run/iter_4.pth').absolute())
    checkpoint = torch.load('run/iter_4.pth', weights_only=False)
    assert (
        checkpoint['meta']['processes'],
        checkpoint['meta']['batch_size'],
        checkpoint['meta']['iter'],
    ) == (1, 2, 4)
    assert checkpoint['message_hub']['runtime_info']['keep_ckpt_ids'] == [3, 4]
    assert checkpoint['message_hub']['runtime_info']['best_score'] == 4


@pytest.mark.parametrize('failing', ['iter_2.pth', 'best_score_iter_2.pth'])
def test_a_checkpoint_that_cannot_be_written_leaves_the_older_one(monkeypatch, failing):
    """Limits the size of files; mmengine removes the older file first."""
    made = runner(max_keep_ckpts=1, save_best='score', rule='greater')
    save = made.save_checkpoint
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(out_dir, filename, *args, **kwargs) -> None:
        if filename == failing:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        save(out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(made, 'save_checkpoint', limited)
    try:
        with pytest.raises(OSError, match=f'File too large: .*{failing}'):
            made.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    last = 'iter_1.pth' if failing == 'iter_2.pth' else 'iter_2.pth'
    assert names() == ['best_score_iter_1.pth', last]
    assert latest() == last
    for name in names():
        torch.load(f'run/{name}', weights_only=False)


def test_an_interrupted_validation_is_repeated():
    with pytest.raises(Stopped):
        runner(stop_before=4, max_keep_ckpts=1, save_best='score', rule='greater').train()
    assert names() == ['best_score_iter_2.pth', 'iter_4.pth'] and not Path('validated_4').exists()
    Path('run', f'part-{32 * "a"}-iter_4.pth').touch()
    Path('run/part-time.pth').touch()
    resumed = runner(resume=True, max_keep_ckpts=1, save_best='score', rule='greater')
    resumed.train()
    assert Path('validated_4').exists() and resumed.iter == 4
    assert names() == ['best_score_iter_4.pth', 'iter_4.pth', 'part-time.pth'], 'temporary files are removed'


def test_a_repeated_validation_keeps_the_best_checkpoint_of_the_same_name(monkeypatch):
    best = dict(max_keep_ckpts=1, save_best='score', rule='greater')
    with pytest.raises(Stopped):
        runner(stop_after=2, **best).train()
    assert names() == ['best_score_iter_2.pth', 'iter_2.pth']
    monkeypatch.setattr(sys.modules[__name__], 'SCORES', [1, 4, 1, 1])  # As on a GPU, it differs a little.
    runner(resume=True, **best).train()
    assert names() == ['best_score_iter_2.pth', 'iter_4.pth']


@pytest.mark.parametrize('best', ['accuracy', 'auto', 'val_loss'])
def test_an_evaluation_with_the_loss_alone(monkeypatch, best):
    """As of a detector that finds nothing."""
    monkeypatch.setattr(Score, 'compute_metrics', lambda self, results: dict(val_loss=1.0))
    runner(save_best=best).train()
    assert ('best_val_loss_iter_1.pth' in names()) == (best == 'val_loss')


EARLY = dict(type='ResumableEarlyStoppingHook', monitor='score', rule='greater', patience=2)


@pytest.mark.parametrize('killed', [None, 1, 2, 3])
def test_early_stopping_goes_on_after_a_resume(monkeypatch, killed):
    monkeypatch.setattr(sys.modules[__name__], 'SCORES', [4, 1, 1, 1])
    if killed:
        with pytest.raises(Stopped):
            runner(stop_after=killed, default_hooks=dict(stop=EARLY)).train()
    last = runner(resume=bool(killed), default_hooks=dict(stop=EARLY))
    last.train()
    assert last.iter == 3 and not Path('run/iter_4.pth').exists()


def test_resume_uses_the__latest_intact_checkpoint():
    assert latest() is None
    runner(max_keep_ckpts=3).train()
    assert latest() == 'iter_4.pth'
    content = Path('run/iter_4.pth').read_bytes()
    Path('run/iter_4.pth').write_bytes(content[: len(content) // 2])
    assert latest() == 'iter_3.pth'
    Path('run/last_checkpoint').write_text('')
    assert latest() == 'iter_3.pth'
    Path('run/last_checkpoint').write_text('elsewhere/iter_9.pth')
    assert latest() == 'iter_3.pth'
    for name in ('iter_2.pth', 'iter_3.pth'):
        Path('run', name).write_bytes(b'')
    Path('run/last_checkpoint').write_text('run/iter_4.pth')
    with pytest.raises(UserError, match='run/iter_4.pth: truncated'):
        latest()


def test_a_file_has_the_old_or_the_new_content():
    file = Path('text')
    atomic_write(file, 'former')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="'text'"):
            atomic_write(file, b'x' * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_text() == 'former' and list(Path('.').iterdir()) == [file]


def edit(change: Callable[[dict], object]) -> None:
    """Changes what the last checkpoint holds."""
    file = Path('run/iter_2.pth')
    checkpoint = torch.load(file, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, file)


BEST = dict(max_keep_ckpts=1, save_best='score', rule='greater')


@pytest.mark.parametrize('elsewhere', ['../private', 'private', 'private/best_score_iter_1.pth'])
def test_a_best_checkpoint_elsewhere_is_not_removed(elsewhere, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], 'SCORES', [1, 2, 3, 4])
    Path('run/private').mkdir(parents=True)
    Path('private').mkdir()
    for folder in ('private', 'run/private'):
        Path(folder, 'best_score_iter_1.pth').touch()
    with pytest.raises(Stopped):
        runner(stop_after=2, **BEST).train()
    target = str(Path('run', elsewhere).absolute())
    edit(lambda checkpoint: checkpoint['message_hub']['runtime_info'].update(best_ckpt=target))
    runner(resume=True, **BEST).train()
    assert 'best_score_iter_4.pth' in names()
    for folder in ('private', 'run/private'):
        assert Path(folder, 'best_score_iter_1.pth').is_file()


def test_a_resumed_run_is_fused_as_its_own_config_says():
    first, second = runner(stop_after=2), runner(resume=False)
    first.optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01))
    second.optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01, fused=True))
    with pytest.raises(Stopped):
        first.train()
    second._resume, second._load_from = True, 'run/iter_2.pth'
    second.train()
    optimizer = second.optim_wrapper.optimizer
    assert optimizer.param_groups[0]['fused'] and optimizer.state[second.model.slope]['step'] == 4


def test_a_config_text_in_a_checkpoint_is_not_executed():
    """mmengine executes it, with its custom_imports."""
    with pytest.raises(Stopped):
        runner(stop_after=2).train()
    Path('evil.py').write_text("open('mark', 'w')")
    text = "custom_imports = dict(imports=['evil'])\nimport os\nos.mkdir('mark')"
    edit(lambda checkpoint: checkpoint['meta'].update(config=text, cfg=text))
    resumed = runner(resume=True)
    resumed.train()
    assert resumed.iter == 4 and not Path('mark').exists()


def doubled() -> list:
    """A list that holds another twice, and so on: 2 ** 100 numbers in a small file."""
    value: list = [1]
    for _ in range(100):
        value = [value, value]
    return value


EDITS: dict[str, tuple[Callable[[dict], object], str]] = {
    'no epoch': (lambda checkpoint: checkpoint['meta'].pop('epoch'), 'meta has no epoch and iter'),
    'a step that is a text': (
        lambda checkpoint: checkpoint['meta'].update(iter='2'),
        'meta has no epoch and iter',
    ),
    'no hub': (lambda checkpoint: checkpoint.update(message_hub=[]), 'holds weights only'),
    'no meta': (lambda checkpoint: checkpoint.update(meta=None), 'holds weights only'),
    'no optimiser': (lambda checkpoint: checkpoint.pop('optimizer'), 'holds weights only'),
    'no groups': (
        lambda checkpoint: checkpoint['optimizer'].update(param_groups=[]),
        'does not fit this run',
    ),
    'no schedules': (lambda checkpoint: checkpoint.update(param_schedulers=[]), 'schedules of this run'),
    'other parameters': (
        lambda checkpoint: checkpoint['optimizer']['param_groups'][0].update(params=[1, 2]),
        'does not fit this run',
    ),
    'a state that is a text': (lambda checkpoint: checkpoint.update(optimizer='x'), 'does not fit this run'),
    'lists within lists': (
        lambda checkpoint: checkpoint['optimizer']['state'].update({0: {'x': doubled()}}),
        'too many parts',
    ),
    'another model': (
        lambda checkpoint: checkpoint['state_dict'].update(other=torch.ones(1)),
        'does not fit the Line',
    ),
}


@pytest.mark.parametrize('name', EDITS)
def test_an_edited_checkpoint_is_a_user_error(name):
    change, words = EDITS[name]
    with pytest.raises(Stopped):
        runner(stop_after=2, **BEST).train()
    edit(change)
    with pytest.raises(UserError, match=f'iter_2.pth.*{words}'):
        resumed = runner(resume=True, **BEST)
        resumed.train()


@pytest.mark.parametrize(
    'info',
    [
        None,
        [doubled()],
        dict(
            best_ckpt=doubled(),
            best_score=doubled(),
            keep_ckpt_ids=doubled(),
            early_stopping_score=tuple(doubled()),
        ),
        dict(best_ckpt=1, best_score='1', keep_ckpt_ids=1, early_stopping_score=('1', 4.0)),
    ],
    ids=lambda info: type(info).__name__,
)
def test_values_of_another_type_are_ignored(info):
    with pytest.raises(Stopped):
        runner(stop_after=2, **BEST).train()
    edit(lambda checkpoint: checkpoint['message_hub'].update(runtime_info=info))
    resumed = runner(resume=True, default_hooks=dict(stop=EARLY), **BEST)
    resumed.train()
    assert resumed.iter == 4


def test_paths_in_place_of_numbers_are_ignored():
    """mmengine would format them into the name of a checkpoint to remove."""
    with pytest.raises(Stopped):
        runner(stop_after=2, **BEST).train()
    Path('precious.pth').touch()
    ids = ['/../../precious']
    edit(lambda checkpoint: checkpoint['message_hub']['runtime_info'].update(keep_ckpt_ids=ids))
    runner(resume=True, **BEST).train()
    assert Path('precious.pth').exists()
