"""What is told where processes do not come together; what they do together is in tests/tools."""

import pytest
import torch

from mmiformer import distributed
from mmiformer.errors import UserError


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
