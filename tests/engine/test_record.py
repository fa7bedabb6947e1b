import json
from pathlib import Path

from mmengine.config import Config
from small_training import AlwaysOne, small_training

from mmiformer.engine.record import RecordHook


def test_an_evaluation_without_metrics_does_not_repeat_the_former_ones(tmp_path, monkeypatch):
    """A detector that finds nothing has none."""
    monkeypatch.chdir(tmp_path)
    found = iter([dict(score=1.0), {}, dict(score=3.0)])
    monkeypatch.setattr(AlwaysOne, 'compute_metrics', lambda self, results: next(found))
    runner = small_training('run')
    runner.register_hook(RecordHook(Config()))
    runner.train()
    lines = next(Path('run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    evaluations = [record for record in map(json.loads, lines) if 'loss' not in record]
    assert [record.get('score') for record in evaluations] == [1, None, 3]
