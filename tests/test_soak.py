"""Memory does not grow over many images and epochs.

Takes 40 minutes, so only ``pytest tests/test_soak.py --soak 2000`` runs it, with 2000 images for each task.
Figures are printed, curves are drawn into ``work_dirs/soak``.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import CONFIGS, environment
from matplotlib import pyplot as plt

EPOCHS = 3
# The first part of a run is a warm-up: it includes the start of workers, a validation and a checkpoint. The
# median of the second part is compared with the last one's, over many images since sizes are random.
PARTS = dict(predict=5, train=EPOCHS)
MOST_GROWTH = 0.02
# Makes glibc return larger blocks at once. By default it keeps them, and if image sizes change, the holes
# between them add up to far more than what is in use: see docs/trust.md.
GIVE_BACK = dict(MALLOC_MMAP_THRESHOLD_=65536)


@pytest.mark.parametrize(
    ('kind', 'task'),
    [('predict', 'det'), ('predict', 'seg'), ('predict', 'cls'), ('train', 'seg'), ('train', 'cls')],
)
def test_resident_memory_is_flat(request, root, workplace, capfd, kind, task):
    images = request.config.getoption('soak')
    if not images:
        pytest.skip('a long run: --soak 2000')
    folder = Path('work_dirs/soak').absolute()
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f'{kind}_{task}.json'
    number = images if kind == 'predict' else EPOCHS
    with capfd.disabled():  # Shows its progress bar.
        subprocess.run(
            [sys.executable, root / 'tests/soaking.py', kind, root / CONFIGS[task], str(number), out],
            env=environment(**GIVE_BACK) if kind == 'predict' else environment(),
            cwd=workplace,
            check=True,
        )
    used = np.array(json.loads(out.read_text())) / 2**20
    part = len(used) // PARTS[kind]
    before, after = np.median(used[part : 2 * part]), np.median(used[-part:])
    growth = after / before - 1
    what = f'{kind} {task}, {len(used)} steps: {before:.0f} MiB after the warm-up, {after:.0f} in the end'
    with capfd.disabled():
        print(f'\n{what}, growth {growth:.2%}')
    figure, axis = plt.subplots(figsize=(9, 4))
    axis.plot(used, linewidth=0.8)
    axis.axvline(part, color='grey', linestyle=':')
    axis.set(title=what, xlabel='image' if kind == 'predict' else 'step', ylabel='resident MiB')
    axis.set_ylim(0, 1.1 * used.max())
    figure.savefig(out.with_suffix('.png'), dpi=110)
    plt.close(figure)
    assert growth < MOST_GROWTH
