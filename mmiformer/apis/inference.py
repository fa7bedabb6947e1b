"""From a config and a checkpoint, or an exported file, to predictions, for all tasks."""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from torch import nn

from mmiformer.apis.cli import load_config
from mmiformer.apis.configs import weights_of
from mmiformer.apis.results import Result
from mmiformer.apis.sources import Frame, Images, Video, open_source
from mmiformer.checkpoints import load_weights
from mmiformer.datasets import LoadCheckedImage
from mmiformer.datasets.checks import dataset_meta, datasets_of
from mmiformer.deploy import build_export_wrapper, fold, metadata, postprocess, use_matmul_attention
from mmiformer.deploy.fitting import fit_images
from mmiformer.deploy.runtimes import open_exported, runtime_of
from mmiformer.engine.compiling import compile_backbone
from mmiformer.models.layers import FFN, ConvNorm
from mmiformer.tasks import TASKS, Painter, Task, task_of
from mmiformer.utils.configs import kind_of
from mmiformer.utils.cpu import prepare_for_cpu
from mmiformer.utils.errors import UserError

Model = TypeVar('Model', bound=nn.Module)


def bare_model(cfg: Config) -> BaseModel:
    """Builds the model of a config without calling ``init_weights``."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if 'data_preprocessor' in cfg:  # As mmengine's runner does.
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return revert_sync_batchnorm(MODELS.build(cfg.model))  # Inference runs in one process.


def build_model(
    cfg: Config, checkpoint: str | None, device: torch.device | str = 'cpu', strict: bool = True
) -> BaseModel:
    """Builds the model of a config with the weights of a checkpoint, in eval mode.

    Args:
        cfg: The config.
        checkpoint: Path or address of the weights; None initialises the model as for training.
        device: Where the model runs. Defaults to the CPU.
        strict: Whether the checkpoint must fill the model; otherwise the rest of it is initialised as for
            training. Defaults to True.

    Returns:
        The model, with the classes and palette of the data set in ``dataset_meta``.

    Raises:
        UserError: If the file cannot be read or does not fit the model.
    """
    if checkpoint and 'backbone' in cfg.model:
        cfg = copy.deepcopy(cfg)
        cfg.model.backbone.init_cfg = None  # The checkpoint fills it.
    model = bare_model(cfg)
    meta = {}
    if not checkpoint or not strict:
        model._dump_init_info = lambda *_: None  # mmengine would print every tensor.
        model.init_weights()
    if checkpoint:
        meta = load_weights(model, checkpoint, strict).dataset_meta
    model.dataset_meta = {**dataset_meta(cfg, 'test'), **meta}
    return model.to(device).eval()


def optimize_for_inference(model: Model, compiled: bool = False) -> Model:
    """Returns a faster copy of a trained model: folded, then optimised for its device.

    On a CPU it has channels-last weights, attention as explicit products, fused activations, feed-forward
    layers in chunks, and RoIAlign in PyTorch; a GPU keeps torch's attention kernels.

    Args:
        model: A detector, segmentor or classifier, or a wrapper of one.
        compiled: Whether to compile the backbone with ``torch.compile``, which takes half a minute and pays
            for small images, after some hundreds of them. Defaults to False.

    Returns:
        The copy, in eval mode.
    """
    model = fold(model)
    if next(model.parameters()).device.type == 'cpu':
        use_matmul_attention(model)
        for module in model.modules():
            if isinstance(module, ConvNorm):
                module.fuse()
            elif isinstance(module, FFN):
                module.use_chunks = True
        prepare_for_cpu(model)
    if compiled:
        inner: Any = model
        while not hasattr(inner, 'backbone'):  # Test-time augmentation wraps the model.
            inner = inner.module
        compile_backbone(inner, dynamic=True)
    return model


def image_steps(cfg: Config) -> list[ConfigDict]:
    """The test pipeline of a config without the transforms that read annotations."""
    steps = datasets_of(cfg, 'test')[0].pipeline
    truth = ('LoadAnnotations', 'LoadCheckedSegMap', 'LoadIntactSegMap')  # The last is a former name.
    return [step for step in steps if kind_of(step) not in truth]


def predict(model: BaseModel, cfg: Config, image: str | Path) -> Any:
    """Runs a model on one image file, through the test pipeline of the config.

    Args:
        model: A model of :func:`build_model`.
        cfg: Its config.
        image: Path of the image.

    Returns:
        The data sample with the prediction, in coordinates of the image file.

    Raises:
        UserError: If the image cannot be read, or is too small for the network.
    """
    pipeline = Compose([TRANSFORMS.build(step) for step in image_steps(cfg)])
    data = pipeline(dict(img_path=str(image), img_id=0))
    try:
        with torch.no_grad():
            return model.test_step(pseudo_collate([data]))[0]
    except UserError as error:  # The network does not know the file.
        raise UserError(f'{image}: {error}') from None


class Predictor:
    """A model, or an exported file, that predicts on images.

    Attributes:
        task: What it does.
        meta: ``classes`` and perhaps ``palette``.
    """

    task: Task
    meta: dict[str, Any]
    visualizer: Mapping[str, Any]
    _load: BaseTransform

    def load(self, path: str) -> np.ndarray:
        """Reads an image as the test pipeline does: H x W x 3, BGR.

        Raises:
            UserError: If it cannot be read.
        """
        if '://' not in path and not os.path.exists(path):
            raise UserError(path, 'no such file', 'correct the list of images')
        return self._load(dict(img_path=path))['img']

    def __call__(self, images: Sequence[np.ndarray], score_thr: float = 0.0) -> list[dict[str, np.ndarray]]:
        """Predicts on images of one size, H x W x 3, BGR.

        Args:
            images: The images.
            score_thr: Least score of the objects of a detector. Defaults to 0.

        Returns:
            The arrays of a :class:`~mmiformer.apis.results.Result`, for each image.

        Raises:
            UserError: If the images are too small for the network.
        """
        raise NotImplementedError

    def painter(self, score_thr: float) -> Painter:
        """Draws its predictions."""
        init_default_scope(self.task.scope)
        return self.task.painter(Config(dict(visualizer=self.visualizer)), self.meta, score_thr)


class ModelPredictor(Predictor):
    """Predicts with a model, through the test pipeline of its config.

    Args:
        model: A model of :func:`build_model`.
        cfg: Its config.
    """

    def __init__(self, model: BaseModel, cfg: Config) -> None:
        self.model, self.task, self.meta = model, task_of(cfg), model.dataset_meta
        self.visualizer = cfg.get('visualizer') or self.task.visualizer
        init_default_scope(self.task.scope)
        load, *steps = map(TRANSFORMS.build, image_steps(cfg))
        self._load, self._pipeline = load, Compose(steps)

    def __call__(self, images: Sequence[np.ndarray], score_thr: float = 0.0) -> list[dict[str, np.ndarray]]:
        """See :class:`Predictor`; the images are one batch."""
        shape = images[0].shape[:2]
        given = [dict(img=i, img_path='', img_id=0, img_shape=shape, ori_shape=shape) for i in images]
        with torch.no_grad():
            samples = self.model.test_step(pseudo_collate([self._pipeline(one) for one in given]))
        found = [self.task.arrays(sample) for sample in samples]
        if self.task.name != 'det':
            return found
        return [{name: part[one['scores'] >= score_thr] for name, part in one.items()} for one in found]


class FilePredictor(Predictor):
    """Predicts with an exported file, in numpy, by its metadata.

    Args:
        file: The file.
        cfg: Its config, in place of the metadata. Defaults to None.

    Attributes:
        session: The file, open.

    Raises:
        UserError: If the file or its metadata are missing or broken, or its runtime is not installed.
    """

    def __init__(self, file: str | Path, cfg: Config | None = None) -> None:
        self._file, (runtime, self.session) = file, open_exported(file)
        info = metadata.load(Path(file)) if cfg is None else None
        if info is None:
            if cfg is None:
                problem = 'has no metadata that say how to use it'
                raise UserError(file, problem, 'name the config that it was exported from with --config')
            cfg = copy.deepcopy(cfg)
            fit_images(cfg, self.session.size)
            wrapper = runtime.suited(build_export_wrapper(bare_model(cfg), 'model', folded=False))
            info = metadata.describe(cfg, wrapper, self.session.pixels, dataset_meta(cfg, 'test'))
        self._info, self.task = info, TASKS[info['task']]
        self.visualizer = self.task.visualizer
        self.meta = dict(classes=info['classes'])
        if info.get('palette'):
            self.meta['palette'] = [tuple(colour) for colour in info['palette']]  # As visualizers want them.
        self._load = LoadCheckedImage(color_type='color' if info['exif'] else 'color_ignore_orientation')

    def __call__(self, images: Sequence[np.ndarray], score_thr: float = 0.0) -> list[dict[str, np.ndarray]]:
        """See :class:`Predictor`; the images are run one by one."""
        return [self._predict(mmcv.bgr2rgb(image), score_thr) for image in images]

    def _predict(self, pixels: np.ndarray, score_thr: float) -> dict[str, np.ndarray]:
        outputs = self.session(postprocess.prepare(pixels, self._info, resize_by_rule))
        if len(outputs) != len(self._info['outputs']):
            problem = f'has {len(outputs)} outputs, expected {", ".join(self._info["outputs"])}'
            raise UserError(self._file, problem, 'name the config that it was exported from')
        height, width = pixels.shape[:2]
        return postprocess.finish(outputs, height, width, self._info, score_thr)


class PredictorModel(BaseModel):
    """A predictor that mmengine's runner and evaluators take for a model.

    The test pipeline leaves images as they are: :func:`~mmiformer.deploy.fitting.keep_images`.

    Args:
        predictor: The predictor.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'predict') -> list[Any]:
        """Fills the predictions for images, 3 x H x W, BGR, into their data samples."""
        for image, sample in zip(inputs, data_samples, strict=True):
            (arrays,) = self.predictor([image.permute(1, 2, 0).numpy()])
            sample.update(self.predictor.task.sample(arrays))
        return data_samples


def resize_by_rule(pixels: np.ndarray, height: int, width: int, rule: Mapping[str, Any]) -> np.ndarray:
    """Resizes for :func:`~mmiformer.deploy.postprocess.prepare` with the operators of the test pipeline."""
    backend = 'pillow' if rule['antialias'] else 'cv2'
    return mmcv.imresize(pixels, (width, height), interpolation=rule['interpolation'], backend=backend)


def open_predictor(
    model: str | Path,
    checkpoint: str | Path | None = None,
    config: str | Path | None = None,
    device: torch.device | str = 'cpu',
    options: dict[str, Any] | None = None,
    compiled: bool = False,
) -> Predictor:
    """Opens what predicts.

    Args:
        model: A config, by path or by the name of one of ours; a work dir, with its config and its best or
            else last checkpoint; or a file that tools/export.py wrote.
        checkpoint: Path or address of the weights. Defaults to those of the work dir, or the released ones.
        config: Config of an exported file without metadata.
        device: Where a model runs. Defaults to the CPU.
        options: Settings of the config by dotted key.
        compiled: See :func:`optimize_for_inference`.

    Raises:
        UserError: If something is missing or broken, or does not fit.
    """
    if runtime_of(model):
        if checkpoint:
            raise UserError(model, 'an exported file has its weights', f'leave {checkpoint} out')
        if compiled or torch.device(device).type != 'cpu' or (options and not config):
            problem = 'an exported file runs as it is, on the CPU'
            remedy = 'remove --device and --compile (and --cfg-options, unless you give --config)'
            raise UserError(model, problem, remedy)
        return FilePredictor(model, load_config(str(config), options) if config else None)
    if config:
        raise UserError(f'--config {config}', f'{model} is no exported file', 'name the config in its place')
    cfg = load_config(str(model), options)
    weights = str(checkpoint or weights_of(model))
    return ModelPredictor(optimize_for_inference(build_model(cfg, weights, device), compiled), cfg)


def predict_source(
    predictor: Predictor,
    source: str | Path | Images | Video,
    batch: int = 1,
    score_thr: float = 0.3,
    faults: list[UserError] | None = None,
) -> Iterator[Result]:
    """Predicts on images or frames one after the other; memory does not grow with their number.

    Args:
        predictor: What :func:`open_predictor` returned.
        source: As :func:`~mmiformer.apis.sources.open_source` takes or returns it.
        batch: How many images of one size to predict on at once. Defaults to 1.
        score_thr: Least score of the objects of a detector. Defaults to 0.3.
        faults: Receives the errors of images that cannot be used, which are left out then; None raises the
            first. Defaults to None.

    Yields:
        The results, in order.

    Raises:
        UserError: If an image, or the video, cannot be used.
    """
    frames = source if isinstance(source, Images | Video) else open_source(str(source))
    for part in _batches(_loaded(predictor, frames, faults), batch):
        images = [image for _, image in part]
        try:
            predictions = predictor(images, score_thr)
        except UserError as error:  # The network does not know the files.
            for frame, _ in part:
                _leave_out(UserError(f'{frame.path}: {error}'), faults)
            continue
        for (frame, image), arrays in zip(part, predictions, strict=True):
            pixels, classes = mmcv.bgr2rgb(image), predictor.meta['classes']
            yield Result(frame.path, frame.index, pixels, predictor.task.name, classes, **arrays)


def _loaded(
    predictor: Predictor, frames: Iterable[Frame], faults: list[UserError] | None
) -> Iterator[tuple[Frame, np.ndarray]]:
    for frame in frames:
        try:
            image = predictor.load(frame.path) if frame.image is None else frame.image
        except UserError as error:
            _leave_out(error, faults)
        else:
            yield frame, image


def _leave_out(error: UserError, faults: list[UserError] | None) -> None:
    if faults is None:
        raise error
    faults.append(error)


def _batches(
    frames: Iterable[tuple[Frame, np.ndarray]], size: int
) -> Iterator[list[tuple[Frame, np.ndarray]]]:
    """Groups images that follow each other and have one size."""
    part: list[tuple[Frame, np.ndarray]] = []
    for frame in frames:
        if part and frame[1].shape != part[0][1].shape:
            yield part
            part = []
        part.append(frame)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
