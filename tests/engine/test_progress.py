import re
import sys
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from small_training import small_training

from mmiformer.engine.progress import progress_bar


class Stop(Hook):
    def after_train_epoch(self, runner) -> None:
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def as_a_terminal(monkeypatch) -> None:
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '200')
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)


def test_a_terminal_shows_a_bar_instead_of_lines_about_iterations(monkeypatch, capsys):
    as_a_terminal(monkeypatch)
    runner = small_training('run')
    with progress_bar(runner):
        runner.train()
        runner.logger.info('in between')
    runner.logger.info('afterwards')
    out = capsys.readouterr().out
    last = out[out.rindex('training') :]
    loss = runner.message_hub.get_scalar('train/loss').mean(10)
    assert '6/6' in last and f'loss {loss:.4g}' in last and 'images/s' in last and '0:00:00' in last
    assert len(re.findall('evaluating.*3/3', out)) >= 3, 'evaluations of five images in batches of two'
    assert 'Epoch(train)' not in out and 'score: 1.0' in out
    assert out.index('in between') < out.index('afterwards')
    log = next(Path('run').glob('*/*.log')).read_text()
    assert log.count('Epoch(train)') == 6 and 'in between' in log


def test_an_interrupted_run_gives_the_terminal_back(monkeypatch, capsys):
    as_a_terminal(monkeypatch)
    runner = small_training('run')
    runner.register_hook(Stop())
    before = sys.stdout
    with pytest.raises(KeyboardInterrupt), progress_bar(runner):
        runner.train()
    assert sys.stdout is before and {h.stream for h in runner.logger.handlers} >= {before}
    assert capsys.readouterr().out.rstrip().endswith('\x1b[?25h'), 'the cursor is visible'


def test_a_pipe_gets_the_lines(capsys):
    runner = small_training('run')
    with progress_bar(runner):
        runner.train()
    out = capsys.readouterr().out
    assert out.count('Epoch(train)') == 6 and 'images/s' not in out and 'evaluating' not in out
