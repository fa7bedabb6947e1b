"""What a task has to state. No toolbox is imported here, or by the tasks before it is needed."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS

from mmiformer.utils.errors import UserError


@dataclass(frozen=True)
class Metric:
    """An accuracy that is published and measured.

    Attributes:
        title: In tables.
        task: Name of the task.
        dataset: What it is measured on.
        model: What around a backbone it is of.
        key: What mm's evaluators call it.
        scale: Of mm's value to percent.
        tolerance: Largest difference of a released file from its published figure, in percent: figures have
            one digit, and some files are re-runs, as their authors say. Ours (inferred).
        run_tolerance: The same of a training run: seeds differ by about that much. Ours (inferred).
        metafile_task: Name of the task in OpenMMLab's metafiles; None for a detail that metafiles, pictures
            and summaries leave out. Defaults to None.
        metafile_name: Name of the metric in metafiles. Defaults to the title.
    """

    title: str
    task: str
    dataset: str
    model: str
    key: str
    scale: float
    tolerance: float
    run_tolerance: float
    metafile_task: str | None = None
    metafile_name: str | None = None

    @property
    def label(self) -> str:
        """For an axis."""
        return f'{self.title}, {self.model} on {self.dataset} (%)'


class Painter:
    """Draws images with their predictions, by the visualizer of a config.

    Args:
        cfg: The config.
        dataset_meta: Names of the classes, and their colours where the task has some of its own.
        score_thr: Least score of an object to draw. Defaults to 0.5.
    """

    columns = 2  # Of panels, in a picture of several images.

    def __init__(self, cfg: Config, dataset_meta: dict[str, Any], score_thr: float = 0.5) -> None:
        # Another name and no backend: this one writes nothing by itself.
        self.visualizer = VISUALIZERS.build(dict(cfg.visualizer, name='mmiformer', vis_backends=None))
        self.visualizer.dataset_meta = dataset_meta
        self.score_thr = score_thr

    def draw(self, image: np.ndarray, sample: Any, truth: bool = False, **options: Any) -> np.ndarray:
        """Draws the prediction, or the truth, upon an image.

        Args:
            image: RGB, H x W x 3, uint8.
            sample: The data sample of the model's ``test_step``.
            truth: Whether to draw the truth instead of the prediction. Defaults to False.
            options: Further arguments of the visualizer's ``add_datasample``.

        Returns:
            The picture, RGB, of the same size.
        """
        self.visualizer.add_datasample(
            'mmiformer', image, sample, draw_gt=truth, draw_pred=not truth, show=False, **options
        )
        return self.visualizer.get_image()

    def save(self, image: np.ndarray, sample: Any, out: Path) -> None:
        """Writes a picture of one image and its prediction; arguments as of :meth:`draw`."""
        mmcv.imwrite(mmcv.rgb2bgr(self.draw(image, sample)), str(out))

    def summary(self, sample: Any) -> str:
        """The prediction in words."""
        raise NotImplementedError

    def panel(self, axes: Any, image: np.ndarray, sample: Any) -> None:
        """Shows one of several images in axes of matplotlib: the truth beside the prediction."""
        pair = [self.draw(image, sample, truth=True), self.draw(image, sample)]
        axes.imshow(np.concatenate(pair, axis=1))
        axes.set_title(f'{Path(sample.img_path).name}: truth | prediction', fontsize=9)

    def legend(self, samples: Sequence[Any]) -> dict[str, Any] | None:
        """Arguments of matplotlib's ``legend`` for predictions of several images; None for no legend."""
        return None


class Task:
    """What is particular to a task: a subclass for each, in a file of its own, see :func:`register`."""

    name: str  # For the command line.
    folder: str  # Of its configs, below ``configs``.
    scope: str  # ``default_scope`` of its configs: the package of its toolbox.
    metrics: dict[str, Metric]  # By their keys in the zoo.
    input_size: tuple[int, int]  # Height and width, in pixels, of what its models mostly see.
    # Ends of the keys of a model's parts whose num_classes is that of the data set.
    class_counts: tuple[str, ...] = ()
    # Import paths of metrics that work on part of a data set, by the type name of one that does not.
    subset_metrics: dict[str, str] = {}
    images: tuple[int, int]  # Number of training and of test images of the published data set.
    toy_data: str  # Import path of a :class:`~mmiformer.datasets.toy.folder.ToyData`.
    toy_batch_size: int
    toy_lr: float  # Of AdamW.
    # Import paths of subclasses of :class:`~mmiformer.deploy.wrappers.ExportWrapper`, by the type name of
    # the model that each wraps; '*' is for all other models of the toolbox. Files of new heads add theirs.
    export_wrappers: dict[str, str]
    inferencer_type: str  # Import path of the toolbox's inferencer.
    painter: type[Painter]

    def toy_dataset(self, data: Path, training: bool) -> dict[str, Any]:
        """Type, folders and files of the toy data for a config; what all tasks share is added to it."""
        raise NotImplementedError

    def fit_to_toy_data(self, cfg: Config) -> int:
        """Fits image sizes and the like of a config, in place; returns the number of iterations to train."""
        raise NotImplementedError

    def training_outputs(self, model: Any, image: Any) -> Any:
        """All that a model computes from images (N x 3 x H x W) in a training step, before the losses."""
        return model(image)

    def inferencer(self, cfg: Config, model: Any, load: Callable, **kwargs: Any) -> Any:
        """Makes the toolbox's own inferencer, with its model and its loading transform replaced.

        Args:
            cfg: The config.
            model: The model with its weights, classes in ``dataset_meta``.
            load: The transform that reads an image.
            kwargs: Further arguments of the inferencer, ``device`` among them.
        """
        with warnings.catch_warnings():
            # That no checkpoint is loaded into the model which it builds.
            warnings.simplefilter('ignore')
            result = resolve_name(self.inferencer_type)(cfg, **kwargs)
        for step in result.pipeline.transforms:
            if hasattr(step, 'from_file'):
                step.from_file = load
        chosen = {key: kwargs[key] for key in ('classes', 'palette') if kwargs.get(key)}
        result.visualizer.dataset_meta = {**model.dataset_meta, **chosen}
        model.cfg = cfg
        result.model = model
        return result


TASKS: dict[str, Task] = {}  # By name.
METRICS: dict[str, Metric] = {}  # Of all tasks.
MAIN_METRICS: list[str] = []


def register(task: type[Task]) -> type[Task]:
    """Adds a task to :data:`TASKS`; a class decorator."""
    TASKS[task.name] = task()
    METRICS.update(task.metrics)
    MAIN_METRICS.extend(key for key, metric in task.metrics.items() if metric.metafile_task)
    return task


def task_of(cfg: Config, purpose: str = 'the config') -> Task:
    """The task of a config.

    Args:
        cfg: The config.
        purpose: What the task is asked for, for the message.

    Raises:
        UserError: If its ``default_scope`` is that of no task.
    """
    scope = cfg.get('default_scope')
    scopes = {task.scope: task for task in TASKS.values()}
    if scope not in scopes:
        raise UserError(
            purpose, f"default_scope='{scope}' is of no known task", f'set it to one of {", ".join(scopes)}'
        )
    return scopes[scope]
