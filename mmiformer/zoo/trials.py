"""Trains configs with the same budget and several seeds, to compare how they learn."""

import copy
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mmengine.config import Config

from mmiformer.apis.configs import MIM
from mmiformer.datasets.checks import build_datasets
from mmiformer.engine.resuming import last_checkpoint
from mmiformer.tasks import MAIN_METRICS, METRICS, task_of
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write
from mmiformer.zoo.launching import OnProgress, run_tool
from mmiformer.zoo.markdown import markdown_table


def training_iterations(cfg: Config) -> int:
    """Number of training iterations of a config, in one process."""
    if 'max_iters' in cfg.train_cfg:
        return int(cfg.train_cfg.max_iters)
    images = sum(len(dataset) for dataset in build_datasets(cfg, 'train'))
    return int(cfg.train_cfg.max_epochs * -(-images // cfg.train_dataloader.batch_size))


def with_iterations(cfg: Config, iterations: int) -> Config:
    """A copy of a config that trains for a number of iterations, its schedules in proportion.

    It saves once, at the end, and does not validate. If the config counts epochs, it gets the nearest number
    of them, at least one.
    """
    ratio = iterations / training_iterations(cfg)
    cfg = copy.deepcopy(cfg)
    loop = cfg.train_cfg
    length = 'max_iters' if 'max_iters' in loop else 'max_epochs'
    loop[length] = max(1, round(loop[length] * ratio))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    for part in (*cfg.param_scheduler, *cfg.get('custom_hooks', [])):
        for key in ('begin', 'end', 'T_max', 'switch_epoch'):  # The last is that of PipelineSwitchHook.
            if key in part:
                part[key] = round(part[key] * ratio)
        if 'end' in part:
            part.end = max(part.end, part.get('begin', 0) + 1)
        if 'milestones' in part:
            part.milestones = [round(milestone * ratio) for milestone in part.milestones]
    cfg.default_hooks.checkpoint.update(interval=loop[length], max_keep_ckpts=1)
    cfg.default_hooks.checkpoint.pop('save_best', None)
    return cfg


@dataclass
class Trial:
    """One training run and the evaluation of its last checkpoint on the test data.

    Attributes:
        name: Name of the config.
        cfg: The config.
        seed: The seed.
        out: Folder of all trials.
    """

    name: str
    cfg: Config
    seed: int
    out: Path

    def __post_init__(self) -> None:
        self.cfg = copy.deepcopy(self.cfg)
        self.cfg.randomness = dict(self.cfg.get('randomness', {}), seed=self.seed)
        self.folder = self.out / f'{self.name}-{self.seed}'
        self.file = self.out / f'{self.folder.name}.py'

    def run(self, progress: OnProgress) -> dict[str, Any]:
        """Trains and tests, as far as that is not done yet.

        Args:
            progress: Called with the iterations that the tools log.

        Returns:
            ``figures``: accuracies in percent by metric, none if nothing was detected; ``cpu_seconds`` of the
            training.

        Raises:
            UserError: If a tool fails, or the folder holds a trial with other settings.
        """
        measured, seconds = self.folder / 'measured.json', self.train(progress)
        if not measured.is_file():
            test = self.folder / 'test.json'
            self._run_tool('test', progress, last_checkpoint(self.folder), '--out', test)
            values = json.loads(test.read_text(encoding='utf-8'))['metrics']
            metrics = task_of(self.cfg).metrics.items()
            figures = {k: float(values[m.key]) * m.scale for k, m in metrics if m.key in values}
            atomic_write(measured, json.dumps(dict(figures=figures, cpu_seconds=seconds)) + '\n')
        return json.loads(measured.read_text(encoding='utf-8'))

    def train(self, progress: OnProgress) -> float:
        """Trains, unless it did; returns the seconds of CPU time.

        Raises:
            UserError: If training fails, or the folder holds a trial with other settings.
        """
        if self.file.is_file() and self.file.read_text(encoding='utf-8') != self.cfg.pretty_text:
            raise UserError(self.file, 'holds other settings than this run', 'choose another --out')
        seconds = self.folder / 'cpu_seconds.json'
        if not seconds.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(self.file, self.cfg.pretty_text)
            atomic_write(seconds, json.dumps(self._run_tool('train', progress, '--resume')) + '\n')
        return float(json.loads(seconds.read_text(encoding='utf-8')))

    def _run_tool(self, tool: str, progress: OnProgress, *arguments: object) -> float:
        script = MIM / 'tools' / f'{tool}.py'
        command = [sys.executable, '-u', script, self.file, *arguments, '--work-dir', self.folder]
        return run_tool([str(part) for part in command], self.folder / f'{tool}.txt', progress)


def iterations_in(cfg: Config, cpu_minutes: float, name: str, out: Path, progress: OnProgress) -> int:
    """Number of training iterations in some minutes of CPU time, without start-up and evaluations.

    Args:
        cfg: The config.
        cpu_minutes: Minutes of CPU time, of all cores together.
        name: Name of the config.
        out: Folder for the two short runs, which are kept.
        progress: Called with the iterations that the tools log.
    """
    per_epoch = 1
    if 'max_epochs' in cfg.train_cfg:
        per_epoch = training_iterations(cfg) // cfg.train_cfg.max_epochs
    lengths = (5, 25) if per_epoch == 1 else (per_epoch, 2 * per_epoch)
    short, long = (
        Trial(f'{name}-{length}', with_iterations(cfg, length), 0, out).train(progress) for length in lengths
    )
    step = max(long - short, 1e-3) / (lengths[1] - lengths[0])
    return max(1, round(60 * cpu_minutes / step))


def table(results: dict[str, list[dict[str, Any]]], iterations: dict[str, int]) -> str:
    """A Markdown table: means, standard deviations and all figures of each config.

    Args:
        results: The results of :meth:`Trial.run` by name of the config.
        iterations: Number of training iterations by name of the config.
    """
    lines = []
    for name, trials in results.items():
        for metric in metrics_of(trials) or ['']:
            figures = [trial['figures'].get(metric, 0.0) for trial in trials]
            spread = f' ± {statistics.stdev(figures):.1f}' if len(figures) > 1 else ''
            lines.append(
                {
                    'config': f'`{name}`',
                    'iterations': iterations[name],
                    'CPU minutes': f'{statistics.mean(t["cpu_seconds"] for t in trials) / 60:.1f}',
                    'metric': METRICS[metric].title if metric else 'nothing detected',
                    'mean ± deviation': f'{statistics.mean(figures):.1f}{spread}',
                    'each seed': ', '.join(f'{figure:.1f}' for figure in figures),
                }
            )
    return markdown_table(lines)


def metrics_of(trials: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics that any of the trials has, in the order of :data:`METRICS`."""
    return [metric for metric in METRICS if any(metric in trial['figures'] for trial in trials)]


def plot(results: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Draws the figures of each seed and their means, a panel for each main metric.

    Args:
        results: The results of :meth:`Trial.run` by name of the config.
        out: Picture to write.
    """
    metrics = [m for m in metrics_of([t for trials in results.values() for t in trials]) if m in MAIN_METRICS]
    if not metrics:
        return
    height = 0.34 * len(results) + 0.9
    figure = Figure(figsize=(8, height * len(metrics)), layout='constrained', dpi=110)
    for ax, metric in zip(figure.subplots(len(metrics), 1, squeeze=False)[:, 0], metrics, strict=True):
        for line, trials in enumerate(results.values()):
            figures = [trial['figures'].get(metric, 0.0) for trial in trials]
            ax.plot(figures, [line] * len(figures), 'o', color='#d1495b', alpha=0.6)
            ax.plot([statistics.mean(figures)], [line], '|', color='black', markersize=14)
        ax.set_yticks(range(len(results)), list(results), fontsize=9)
        ax.set_ylim(len(results) - 0.5, -0.5)
        ax.set_xlabel(f'{METRICS[metric].title} (%), each seed and their mean')
        ax.grid(axis='x', color='#e6e6e6', linewidth=0.8)
        ax.spines[['top', 'right']].set_visible(False)
    figure.savefig(out)
