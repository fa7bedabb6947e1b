import os
from pathlib import Path

import pytest
import torch

import mmiformer  # noqa: F401  Before mmdet: it makes torchvision importable beside a CPU torch.

ROOT = Path(__file__).resolve().parents[1]


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


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
