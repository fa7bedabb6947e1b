"""Equal budgets: schedules in proportion, and what a comparison says of its trials."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmiformer.apis.cli import load_config
from mmiformer.utils.errors import UserError
from mmiformer.zoo.trials import Trial, table, training_iterations, with_iterations


def rates(cfg: Config) -> list[float]:
    """The learning rate of each iteration, by mmengine's schedulers, as a part of the highest."""
    optimizer = OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))
    schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer)) for s in cfg.param_scheduler]
    found = []
    for _ in range(cfg.train_cfg.max_iters):
        found.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    return found


@pytest.mark.parametrize('file', ['detection/rtmdet_iformer_t_bccd', 'segmentation/lraspp_iformer_t_camvid'])
def test_a_shorter_training_has_the_same_schedule(root, file):
    cfg = load_config(root / 'configs' / f'{file}.py')
    whole = rates(cfg)
    short = with_iterations(cfg, len(whole) // 4)
    assert training_iterations(short) == len(whole) // 4 and training_iterations(cfg) == len(whole)
    assert rates(short) == pytest.approx(whole[::4], abs=0.05)  # A step of the warm-up is 0.04.


def test_figures_of_all_seeds(tmp_path):
    """The expected figures are from a pocket calculator."""
    results = dict(a=[dict(figures=dict(box_ap=x), cpu_seconds=60 * x) for x in (1, 2, 6)])
    results['b'] = [dict(figures={}, cpu_seconds=30), dict(figures={}, cpu_seconds=90)]
    lines = table(results, dict(a=5, b=7)).splitlines()[2:]
    assert lines == [
        '| `a` | 5 | 3.0 | box AP | 3.0 ± 2.6 | 1.0, 2.0, 6.0 |',
        '| `b` | 7 | 1.0 | nothing detected | 0.0 ± 0.0 | 0.0, 0.0 |',
    ]


def test_a_finished_trial_is_kept_and_another_one_refused(root, tmp_path):
    cfg = load_config(root / 'configs/detection/rtmdet_iformer_t_bccd.py')
    trial = Trial('rtmdet', cfg, 3, tmp_path)
    assert trial.cfg.randomness.seed == 3 and 'randomness' not in cfg
    trial.folder.mkdir()
    trial.file.write_text(trial.cfg.pretty_text)
    result = dict(figures=dict(box_ap=1.5), cpu_seconds=2.0)
    (trial.folder / 'cpu_seconds.json').write_text('2.0')
    (trial.folder / 'measured.json').write_text(json.dumps(result))
    assert trial.run(print) == result
    with pytest.raises(
        UserError, match='rtmdet-3.py: holds other settings than this run; choose another --out'
    ):
        Trial('rtmdet', with_iterations(cfg, 9), 3, tmp_path).run(print)
