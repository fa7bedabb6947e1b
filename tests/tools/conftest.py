import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CONFIG
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
        from mmiformer import cli

        spec = importlib.util.spec_from_file_location(f'tool_{tool}', root / 'tools' / f'{tool}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *map(str, arguments)])
        # mmengine's loggers outlive a call, and with them the stream of an earlier test.
        monkeypatch.setattr(logging, 'raiseExceptions', False)
        # So do its visualizers, with their files.
        for kind in (Visualizer, *Visualizer.__subclasses__()):
            kind._instance_dict.clear()
        capsys.readouterr()
        code = 0
        try:
            cli.run(module.main)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture
def config(root) -> str:
    return str(root / CONFIG)


@pytest.fixture(scope='session')
def trained(root, workplace) -> dict:
    """What a short ``--demo`` run left behind; shared by the tests that need a checkpoint."""
    return {}
