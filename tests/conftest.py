import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sharing
import torch

import mmiformer  # noqa: F401  Before mmdet: it makes torchvision importable beside a CPU torch.
from mmiformer.datasets.toy.folder import ToyData

ROOT = Path(__file__).resolve().parents[1]


sharing.format_once()
sharing.collect_no_garbage()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--every-config', action='store_true', help='train and evaluate with all peers, not a third of them'
    )
    parser.addoption('--kills', type=int, default=3, help='how often to kill a training of each task')
    parser.addoption(
        '--every-fault', action='store_true', help='lose processes of all tasks at all moments, not at some'
    )
    parser.addoption(
        '--operator-steps',
        type=int,
        default=0,
        metavar='STEPS',
        help="train so many steps on mmcv's compiled operators and on ours",
    )
    parser.addoption(
        '--soak',
        type=int,
        default=0,
        metavar='IMAGES',
        help='watch the memory over so many predictions a task',
    )


@pytest.fixture(scope='session')
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope='session')
def real_data() -> Path:
    """Folder with coco/, ade/, ... of real images; tests that need it are skipped without it."""
    folder = Path(os.environ.get('MMIFORMER_DATA') or ROOT.parent / 'shared' / 'data').resolve()
    if not (folder / 'coco' / 'annotations').is_dir():
        pytest.skip('no real COCO images: set MMIFORMER_DATA to a folder that holds coco/')
    return folder


@pytest.fixture(scope='session')
def workplace(tmp_path_factory) -> Iterator[Path]:
    """Folder that runs are started in; the demo data is made in it once."""
    made = tmp_path_factory.mktemp('workplace')
    session = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        session = session.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyData, 'make', sharing.drawn_once(session / 'drawn', made, ToyData.make))
        yield made


@pytest.fixture
def at_work(workplace, monkeypatch) -> Path:
    """The workplace as the current folder, without real data."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv('MMIFORMER_DATA', '')  # So that what a tool sets is taken back after the test.
    monkeypatch.delenv('MMIFORMER_DATA')  # Tests of real data set it again.
    # mmengine's loggers outlive a run, and with them the stream of an earlier test.
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    return workplace


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
