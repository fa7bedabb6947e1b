import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CONFIG, call_tool
from mmengine.visualization import Visualizer


@pytest.fixture(scope='session')
def workplace(tmp_path_factory) -> Path:
    """Folder that the tools are run from; the demo data is made in it once."""
    return tmp_path_factory.mktemp('workplace')


@pytest.fixture
def run_tool(root, workplace, monkeypatch, capsys) -> Callable:
    """Runs a tool's main with arguments; returns exit code, stdout, stderr."""
    monkeypatch.chdir(workplace)
    monkeypatch.delenv('MMIFORMER_DATA', raising=False)  # Tests of real data set it again.

    def call(tool: str, *arguments: object) -> tuple[int, str, str]:
        # mmengine's loggers outlive a call, and with them the stream of an earlier test.
        monkeypatch.setattr(logging, 'raiseExceptions', False)
        # So do its visualizers, with their files.
        for kind in (Visualizer, *Visualizer.__subclasses__()):
            kind._instance_dict.clear()
        return call_tool(root / 'tools' / f'{tool}.py', arguments, monkeypatch, capsys)

    return call


@pytest.fixture
def config(root) -> str:
    return str(root / CONFIG)


@pytest.fixture(scope='session')
def trained(root, workplace) -> dict:
    """What a short ``--demo`` run left behind; shared by the tests that need a checkpoint."""
    return {}
