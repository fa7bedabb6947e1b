import logging
from types import SimpleNamespace

import pytest

from mmiformer.engine import predictions


@pytest.fixture
def runner():
    loader = SimpleNamespace(dataset=None)
    return SimpleNamespace(model=None, val_dataloader=loader, cfg=None, logger=logging.getLogger('run'))


def test_each_evaluation_replaces_the_picture(runner, tmp_path, monkeypatch, caplog):
    drawn = iter(('first', 'second'))
    monkeypatch.setattr(predictions, '_draw', lambda *args: args[-1].write_text(next(drawn)))
    picture = tmp_path / 'predictions.png'
    hook = predictions.DrawPredictionsHook(picture)
    with caplog.at_level(logging.INFO, 'run'):
        for expected in ('first', 'second'):
            hook.after_val_epoch(runner)
            assert picture.read_text() == expected
    assert caplog.text.count(str(picture)) == 2 and list(tmp_path.iterdir()) == [picture]


def test_an_error_in_drawing_does_not_stop_the_run(runner, tmp_path, monkeypatch, caplog):
    def fail(*args):
        raise OSError('no space left')

    monkeypatch.setattr(predictions, '_draw', fail)
    predictions.DrawPredictionsHook(tmp_path / 'predictions.png').after_val_epoch(runner)
    assert 'no predictions drawn (no space left)' in caplog.text
