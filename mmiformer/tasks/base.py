"""What a task defines. The toolboxes are imported only when they are needed."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS


@dataclass(frozen=True)
class Metric:
    """A published accuracy.

    Attributes:
        title: Its name in tables.
        model: The model around the backbone.
        dataset: Name of the data set.
        key: Its key in mm's evaluators.
        scale: Factor from mm's value to percent.
        tolerance: Largest difference between a released file and its published figure, in percent: figures
            have one digit, and some files are from another run than the paper's. Ours (inferred).
        run_tolerance: The same for a training run: seeds differ by about that much. Ours (inferred).
        metafile_task: Name of the task in OpenMMLab's metafiles; None for a detail that metafiles, pictures
            and summaries leave out. Defaults to None.
        metafile_name: Name of the metric in metafiles. Defaults to the title.
    """

    title: str
    model: str
    dataset: str
    key: str
    scale: float
    tolerance: float
    run_tolerance: float
    metafile_task: str | None = None
    metafile_name: str | None = None

    @property
    def label(self) -> str:
        """Label of an axis."""
        return f'{self.title}, {self.model} on {self.dataset} (%)'


class Painter:
    """Draws images with their predictions, with the visualizer of a config.

    Args:
        cfg: The config.
        dataset_meta: Names of the classes, and their colours if the data set has them.
        score_thr: Least score of the objects to draw. Defaults to 0.5.
    """

    columns = 2  # Of panels, in a picture of several images.

    def __init__(self, cfg: Config, dataset_meta: dict[str, Any], score_thr: float = 0.5) -> None:
        # Not by the registry's build, which returns a former visualizer of the same name; and without
        # backends, so that it writes no files.
        settings = {**cfg.visualizer, 'vis_backends': None}
        with VISUALIZERS.switch_scope_and_registry(None) as registry:
            self.visualizer = registry.get(settings.pop('type'))(**settings)
        self.visualizer.dataset_meta = dataset_meta
        self.score_thr = score_thr

    def draw(self, image: np.ndarray, sample: Any, truth: bool = False, **options: Any) -> np.ndarray:
        """Draws the prediction, or the ground truth, on an image.

        Args:
            image: RGB, H x W x 3, uint8.
            sample: The data sample of the model's ``test_step``.
            truth: Whether to draw the ground truth instead of the prediction. Defaults to False.
            options: Further arguments of the visualizer's ``add_datasample``.

        Returns:
            The picture, RGB, of the same size.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings(
                'ignore', message='.*is out of bounds'
            )  # It is drawn as far as it is inside.
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
        """Shows ground truth and prediction of one of several images in axes of matplotlib."""
        pair = [self.draw(image, sample, truth=True), self.draw(image, sample)]
        axes.imshow(np.concatenate(pair, axis=1))
        axes.set_title(f'{Path(sample.img_path).name}: truth | prediction', fontsize=9)

    def truth_panel(self, axes: Any, image: np.ndarray, sample: Any) -> None:
        """Shows a training image with its ground truth in axes of matplotlib."""
        axes.imshow(self.draw(image, sample, truth=True))

    def legend(self, samples: Sequence[Any]) -> dict[str, Any] | None:
        """Arguments of matplotlib's ``legend`` for several images; None for no legend."""
        return None


class Task:
    """What is particular to a task; a subclass for each."""

    name: str  # Its key.
    folder: str  # Of its configs, below ``configs``.
    scope: str  # ``default_scope`` of its configs: the package of its toolbox.
    metrics: dict[str, Metric]  # By their keys in the zoo.
    input_size: tuple[int, int]  # Usual height and width of the images in pixels.
    class_counts: tuple[str, ...]  # Ends of the keys of parts whose num_classes is that of the data set.
    images: tuple[int, int]  # Number of training and of test images of the published data set.
    toy_data: str  # Import path of a :class:`~mmiformer.datasets.toy.folder.ToyData`.
    toy_batch_size: int
    toy_lr: float  # Of AdamW.
    export_wrappers: dict[str, str]  # Import paths by the type of the model, '*' for others of the toolbox.
    inferencer_type: str  # Import path of the toolbox's inferencer.
    visualizer: dict[str, Any]  # Config of the toolbox's visualizer.
    painter: type[Painter]

    def toy_dataset(self, data: Path, training: bool) -> dict[str, Any]:
        """Config of the toy data's type, folders and files."""
        raise NotImplementedError

    def fit_to_toy_data(self, cfg: Config) -> int:
        """Reduces the image sizes in a config, in place; returns the number of training iterations."""
        raise NotImplementedError

    def training_outputs(self, model: Any, image: Any) -> Any:
        """All that a model computes from images (N x 3 x H x W) in a training step, before the losses."""
        return model(image)

    def draw_truth(self, height: int, width: int) -> Any:
        """Makes a data sample with ground truth for a training step on noise."""
        raise NotImplementedError

    def arrays(self, sample: Any) -> dict[str, np.ndarray]:
        """The prediction in a data sample, as :class:`mmiformer.apis.results.Result` names it."""
        raise NotImplementedError

    def sample(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Makes a data sample of a prediction: the inverse of :meth:`arrays`."""
        raise NotImplementedError

    def inferencer(self, cfg: Config, model: Any, load: Callable, **kwargs: Any) -> Any:
        """Makes the toolbox's inferencer, with its model and loading transform replaced.

        Args:
            cfg: The config.
            model: The model with its weights, and its classes in ``dataset_meta``.
            load: Transform that reads an image.
            kwargs: Further arguments of the inferencer, ``device`` among them.
        """
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # It warns that its own model has no checkpoint.
            result = resolve_name(self.inferencer_type)(cfg, **kwargs)
        for step in result.pipeline.transforms:
            if hasattr(step, 'from_file'):
                step.from_file = load
        chosen = {key: kwargs[key] for key in ('classes', 'palette') if kwargs.get(key)}
        result.visualizer.dataset_meta = {**model.dataset_meta, **chosen}
        model.cfg = cfg
        result.model = model
        return result
