"""Errors and warnings of several processes; what they compute is tested in tests/tools."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmiformer.engine import distributed
from mmiformer.engine.runner import _check_batch
from mmiformer.utils.errors import UserError


def test_different_copies_of_the_data_are_an_error(monkeypatch):
    distributed.check_same_length('train_dataloader', 7)
    monkeypatch.setattr(distributed, 'all_gather_object', lambda length: [length, length - 1])
    with pytest.raises(UserError, match='train_dataloader: the processes see 7, 6 images'):
        distributed.check_same_length('train_dataloader', 7)


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        # Of torch 2.13, when a process was killed, when it hangs, and when its machine is gone.
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
def test_only_errors_of_the_connection_are_taken_for_a_lost_process(error, reason, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '3')
    if reason is None:
        assert distributed.lost_contact(error) is None
    else:
        message = distributed.lost_contact(error)
        assert re.search(f'^rank 0 of 3: lost contact with another process .*{reason}', message)


BY_EPOCH, BY_ITERATION = dict(max_epochs=12), dict(max_iters=40)
OF_ITERATIONS, OF_EPOCHS = dict(begin=0, convert_to_iter_based=True), dict(begin=0, by_epoch=True)


@pytest.mark.parametrize(
    ('meta', 'schedule', 'steps', 'expected'),
    [
        (dict(processes=2, batch_size=4), BY_EPOCH, OF_ITERATIONS, None),
        (dict(processes=4, batch_size=2), BY_EPOCH, OF_ITERATIONS, None),
        (dict(epoch=3), BY_EPOCH, OF_ITERATIONS, None),
        (dict(processes=8, batch_size=4), BY_ITERATION, OF_EPOCHS, 'a batch of 32 .*, this run has 8'),
        (dict(processes=8, batch_size=4), BY_ITERATION, OF_ITERATIONS, 'processes .2. to 32'),
        (dict(processes=8, batch_size=4), BY_EPOCH, OF_ITERATIONS, UserError),
    ],
)
def test_resuming_with_another_batch_warns_or_is_an_error(meta, schedule, steps, expected, caplog):
    cfg = Config(dict(train_dataloader=dict(batch_size=4), train_cfg=schedule))
    cfg.param_scheduler = [ConfigDict(by_epoch=False), ConfigDict(steps)]
    run = SimpleNamespace(cfg=cfg, world_size=2, logger=logging.getLogger('run'))
    if expected is UserError:
        with pytest.raises(UserError, match='would not end with the last epoch; .* to 32'):
            _check_batch(run, meta)
        return
    _check_batch(run, meta)
    if expected is None:
        assert not caplog.records
    else:
        (record,) = caplog.records
        assert record.levelno == logging.WARNING and re.search(expected, record.getMessage())
