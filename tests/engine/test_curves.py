import json
from pathlib import Path

from rich.console import Console

from mmiformer.engine.curves import evaluation_table, read_history


def write(folder: Path, iteration: int, epoch: int, *records: dict) -> None:
    """What a run that starts after an iteration and an epoch leaves behind."""
    (folder / 'vis_data').mkdir(parents=True)
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / 'vis_data/scalars.json').write_text(lines + '{"half a li')
    (folder / 'run.json').write_text(json.dumps(dict(iteration=iteration, epoch=epoch)))


def step(number: int, loss: float, **more: int) -> dict:
    return dict(loss=loss, lr=0.1, iter=number, step=number, **more)


def score(number: int, value: float, **more: float) -> dict:
    return dict(mIoU=value, data_time=0.1, time=0.2, step=number, **more)


def test_a_resumed_run_by_iterations(tmp_path):
    write(
        tmp_path / '1', 0, 0, step(10, 3), score(10, 1), step(20, 2), score(20, 2), step(30, 9), score(30, 9)
    )
    write(tmp_path / '2', 20, 0, score(20, 4), step(30, 1), score(30, 3, val_loss=5.0))
    history = read_history(tmp_path)
    assert history.unit == 'iteration'
    assert history.losses == dict(loss=[(10, 3), (20, 2), (30, 1)], val_loss=[(30, 5)])
    assert history.metrics == dict(mIoU=[(10, 1), (20, 4), (30, 3)], val_loss=[(30, 5)])


def test_a_resumed_run_by_epochs(tmp_path):
    """Steps of its evaluations are epochs."""
    first = [part for e in (1, 2, 3) for part in (step(10 * e, e, epoch=e), score(e, e, val_loss=e))]
    write(tmp_path / '1', 0, 0, *first)
    write(tmp_path / '2', 10, 1, score(1, 1, val_loss=1), step(20, 7, epoch=2), score(2, 7, val_loss=7))
    history = read_history(tmp_path)
    assert history.unit == 'epoch'
    assert history.losses['loss'] == [(10, 1), (20, 7)]
    assert history.metrics['mIoU'] == [(1, 1), (2, 7)]
    assert history.losses['val_loss'] == [(10, 1), (20, 7)]


def test_a_run_that_goes_on_after_its_end_keeps_its_last_evaluation(tmp_path):
    write(tmp_path / '1', 0, 0, step(10, 3, epoch=1), score(1, 1))
    write(tmp_path / '2', 10, 1, step(20, 2, epoch=2), score(2, 2))
    assert read_history(tmp_path).metrics == dict(mIoU=[(1, 1), (2, 2)])


def test_a_run_that_is_not_resumed_replaces_all(tmp_path):
    write(tmp_path / '1', 0, 0, step(10, 3), score(10, 1), score(20, 8))
    write(tmp_path / '2', 0, 0, step(50, 2), score(50, 4))
    history = read_history(tmp_path)
    assert history.losses == dict(loss=[(50, 2)]) and history.metrics == dict(mIoU=[(50, 4)])


def test_the_table_marks_the_best(tmp_path):
    values = (1, 5, 3), (2, 7, 4), (3, 6, 2)
    write(tmp_path / '1', 0, 0, *(score(n, value, val_loss=loss) for n, value, loss in values))
    history = read_history(tmp_path)

    def marked(*keys: str) -> str:
        console = Console(width=80)
        with console.capture() as capture:
            console.print(evaluation_table(history, keys))
        return next(line for line in capture.get().splitlines() if 'best' in line)

    assert '│ 2 ' in marked('mIoU', 'val_loss') and '│ 3 ' in marked('val_loss', 'mIoU')
