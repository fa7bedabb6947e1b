from collections.abc import Callable

import pytest
from helpers import CONFIG, call_tool, forget_visualizers


@pytest.fixture
def run_tool(root, at_work, monkeypatch, capsys) -> Callable:
    """Runs a tool's main with arguments; returns exit code, stdout, stderr."""

    def call(tool: str, *arguments: object) -> tuple[int, str, str]:
        forget_visualizers()
        return call_tool(root / 'tools' / f'{tool}.py', arguments, monkeypatch, capsys)

    return call


@pytest.fixture
def config(root) -> str:
    return str(root / CONFIG)


@pytest.fixture(scope='session')
def trained(root, workplace) -> dict:
    """What a short ``--demo`` run left behind; shared by the tests that need a checkpoint."""
    return {}
