"""What is told where processes do not come or stay together; what they do together is in tests/tools."""

import logging
import re

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmiformer.engine import distributed
from mmiformer.utils.errors import UserError


def test_unlike_copies_of_the_data_are_told(monkeypatch):
    distributed.check_same_length('train_dataloader', 7)
    monkeypatch.setattr(distributed, 'all_gather_object', lambda length: [length, length - 1])
    with pytest.raises(UserError, match='train_dataloader: the processes see 7, 6 images'):
        distributed.check_same_length('train_dataloader', 7)


@pytest.fixture
def started(monkeypatch):
    """Has a lone process believe that a launcher started it on a CPU; gives what it sets its threads to."""
    threads = []
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(distributed, 'set_multi_processing', lambda **_: None)
    monkeypatch.setattr(distributed, 'init_dist', lambda *_, **__: None)
    monkeypatch.setattr(torch, 'set_num_threads', threads.append)
    monkeypatch.setattr(distributed.signal, 'signal', lambda *_: None)
    monkeypatch.setenv('OMP_NUM_THREADS', '4,2')
    return threads


def test_threads_are_those_of_the_first_level(started):
    distributed.start('pytorch', {})
    assert started == [4]


def test_a_process_that_does_not_come_is_told(started, monkeypatch):
    def nobody(*_, **__):
        raise torch.distributed.DistStoreError(
            'Timed out after 11 seconds waiting for clients. 1/2 clients joined.'
        )

    monkeypatch.setattr(distributed, 'init_dist', nobody)
    with pytest.raises(UserError, match='did not all come together .Timed out .* 1/2 clients joined'):
        distributed.start('pytorch', {})


@pytest.mark.parametrize(
    ('error', 'told'),
    [
        # As torch 2.13 says it when a process was killed, when it hangs, and when its machine is gone.
        (
            RuntimeError(
                '[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by '
                'peer [127.0.0.1]:27013. This is typically caused by a remote worker crashing. Check the '
                'logs of the remote worker before reporting an error. GLHF!'
            ),
            r'\(Connection closed by peer \[127.0.0.1\]:27013\)',
        ),
        (
            RuntimeError(
                '[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out '
                'waiting 20000ms for recv operation to complete'
            ),
            r'\(Timed out waiting 20000ms for recv operation to complete\)',
        ),
        (torch.distributed.DistNetworkError('failed to recv, got 0 bytes'), 'got 0 bytes'),
        (RuntimeError('The size of tensor a (3) must match the size of tensor b (4)'), None),
        (torch.distributed.DistBackendError('NCCL error: invalid usage, Duplicate GPU detected'), None),
    ],
)
def test_a_lost_process_is_told_and_other_errors_are_not_taken_for_one(error, told, monkeypatch):
    monkeypatch.setattr(distributed, 'get_world_size', lambda: 3)
    if told is None:
        assert distributed.lost_contact(error) is None
    else:
        sentence = distributed.lost_contact(error)
        assert re.search(f'^rank 0 of 3 lost contact with another one, .*{told}', sentence)


BY_EPOCH, BY_ITERATION = dict(max_epochs=12), dict(max_iters=40)
OF_ITERATIONS, OF_EPOCHS = dict(begin=0, convert_to_iter_based=True), dict(begin=0, by_epoch=True)


@pytest.mark.parametrize(
    ('meta', 'schedule', 'steps', 'told'),
    [
        (dict(processes=2, batch_size=4), BY_EPOCH, OF_ITERATIONS, None),
        (dict(processes=4, batch_size=2), BY_EPOCH, OF_ITERATIONS, None),
        (dict(epoch=3), BY_EPOCH, OF_ITERATIONS, None),
        (
            dict(processes=8, batch_size=4),
            BY_ITERATION,
            OF_EPOCHS,
            r'batches of 32 .8 processes x 4., this run has 8 .2 x 4.; .*dataloader.batch_size=16 goes',
        ),
        (dict(processes=8, batch_size=4), BY_ITERATION, OF_ITERATIONS, 'batch_size=16'),
        (dict(processes=1, batch_size=9), BY_EPOCH, OF_EPOCHS, 'a number of processes that divides 9'),
        (dict(processes=8, batch_size=4), BY_EPOCH, OF_ITERATIONS, UserError),
    ],
)
def test_going_on_with_another_batch_is_told(meta, schedule, steps, told, monkeypatch):
    lines = []
    monkeypatch.setattr(distributed, 'get_world_size', lambda: 2)
    monkeypatch.setattr(distributed, 'print_log', lambda line, logger, level: lines.append((line, level)))
    cfg = Config(dict(train_dataloader=dict(batch_size=4), train_cfg=schedule))
    cfg.param_scheduler = [ConfigDict(by_epoch=False), ConfigDict(steps)]
    if told is UserError:
        with pytest.raises(UserError, match='would not end with the last epoch; .*batch_size=16 goes'):
            distributed.warn_of_other_batch(meta, cfg)
        return
    distributed.warn_of_other_batch(meta, cfg)
    if told is None:
        assert not lines
    else:
        (line, level), *_ = lines
        assert level == logging.WARNING and len(lines) == 1
        assert re.search(told, line)
