"""Image classification: mmpretrain and ImageNet."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict

from mmiformer.tasks.base import Metric, Painter, Task


class ClassificationPainter(Painter):
    """Plots an image with its most probable classes."""

    columns = 4

    def draw(self, image: np.ndarray, sample: Any, truth: bool = False, **options: Any) -> np.ndarray:
        """See :meth:`Painter.draw`; mmpretrain's visualizer has a method of its own."""
        return self.visualizer.visualize_cls(image, sample, draw_gt=truth, draw_pred=not truth, **options)

    def best(self, sample: Any, number: int = 5) -> list[tuple[str, float]]:
        """Names and probabilities of the most probable classes, best first."""
        names, scores = self.visualizer.dataset_meta['classes'], sample.pred_score.cpu()
        order = scores.argsort(descending=True)[:number].tolist()
        return [(names[i], float(scores[i])) for i in order]

    def save(self, image: np.ndarray, sample: Any, out: Path) -> None:
        """Writes the image with the probabilities of the five best classes beside it."""
        from matplotlib.figure import Figure

        height, width = image.shape[:2]
        inches = min(5 * width / height, 20)
        figure = Figure(figsize=(inches + 5, 5), dpi=100)
        left, right = figure.subplots(1, 2, width_ratios=(inches, 3))
        left.imshow(image)
        left.axis('off')
        names, shares = zip(*self.best(sample), strict=True)
        right.barh(range(len(names)), shares, tick_label=names)  # ImageNet has two classes 'crane'.
        right.bar_label(right.containers[0], fmt='{:.1%}', padding=2)
        right.set(xlim=(0, 1.2), xticks=(0, 0.5, 1))
        right.invert_yaxis()
        right.spines[['top', 'right']].set_visible(False)
        right.set_box_aspect(1)
        figure.tight_layout()
        figure.savefig(out)

    def summary(self, sample: Any) -> str:
        """The five best classes with bars of their probabilities."""
        best = self.best(sample)
        width = max(len(name) for name, _ in best)
        bars = [f'{name:<{width}} {share:6.1%} {"█" * round(40 * share)}\n' for name, share in best]
        return f'{"".join(bars)}{len(best)} best of {len(sample.pred_score)} classes'

    def truth_panel(self, axes: Any, image: np.ndarray, sample: Any) -> None:
        """See :meth:`Painter.truth_panel`."""
        axes.imshow(image)
        axes.set_title(self.visualizer.dataset_meta['classes'][int(sample.gt_label)], fontsize=9)

    def panel(self, axes: Any, image: np.ndarray, sample: Any) -> None:
        """Shows an image with its best class and, if that is wrong, the true one."""
        label, truth = int(sample.pred_label), int(sample.gt_label)
        best, share = self.best(sample, 1)[0]
        wrong = '' if label == truth else f'\nis: {self.visualizer.dataset_meta["classes"][truth]}'
        axes.imshow(image)
        axes.set_title(f'{best} {share:.0%}{wrong}', fontsize=9, color='tab:red' if wrong else 'black')


_METAFILE = 'Image Classification', 'Top 1 Accuracy'  # Task and metric in OpenMMLab's metafiles.


class Classification(Task):
    """Image classification."""

    name, folder, scope = 'cls', 'classification', 'mmpretrain'
    metrics = dict(
        top1=Metric('top-1', 'classifier', 'ImageNet-1k', 'accuracy/top1', 1, 0.1, 0.3, *_METAFILE)
    )
    class_counts = ('model.head', 'model.data_preprocessor')
    input_size = (224, 224)
    images = 1_281_167, 50_000
    toy_data = 'mmiformer.datasets.toy.imagenet.TOY_DATA'
    toy_batch_size, toy_lr = 32, 1e-3
    export_wrappers = {'*': 'mmiformer.deploy.wrappers.Logits'}
    inferencer_type = 'mmpretrain.ImageClassificationInferencer'
    visualizer = dict(type='UniversalVisualizer')
    painter = ClassificationPainter

    def toy_dataset(self, data: Path, training: bool) -> dict[str, Any]:
        """See :meth:`Task.toy_dataset`."""
        return dict(
            type='mmiformer.datasets.classification.CheckedImageNet',
            data_root=str(data),
            data_prefix='train' if training else 'val',
        )

    def fit_to_toy_data(self, cfg: Config) -> int:
        """Also replaces a teacher by a small untrained one, which needs no download."""
        side = 80
        sizes = dict(
            # Published crops are as small as a twelfth of the image: many would not contain the item.
            RandomResizedCrop=dict(scale=(side, side), crop_ratio_range=(0.5, 1.0)),
            ResizeEdge=dict(scale=side * 256 // 224),
            CenterCrop=dict(crop_size=(side, side)),
        )
        for name in ('train', 'val', 'test'):
            for step in cfg[f'{name}_dataloader'].dataset.pipeline:
                step.update(sizes.get(step.type, {}))
        if 'teacher' in cfg.model:
            cfg.model.teacher = ConfigDict(
                type='ImageClassifier',
                data_preprocessor=cfg.model.data_preprocessor,
                backbone=dict(type='IFormer', arch='t'),
                head=dict(cfg.model.head, num_heads=1, in_channels=256),
            )
        for hook in cfg.get('custom_hooks', []):
            if hook.type == 'EMAHook':  # The published one averages over more steps than these.
                hook.momentum = 0.02
        return 1100

    def draw_truth(self, height: int, width: int) -> Any:
        """Makes a label of the first class."""
        from mmpretrain.structures import DataSample

        return DataSample().set_gt_label(0)

    def arrays(self, sample: Any) -> dict[str, np.ndarray]:
        """See :meth:`Task.arrays`."""
        return dict(probabilities=sample.pred_score.cpu().numpy())

    def sample(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """See :meth:`Task.sample`."""
        from mmpretrain.structures import DataSample

        scores = torch.from_numpy(arrays['probabilities'])
        return DataSample().set_pred_score(scores).set_pred_label(scores.argmax(dim=0, keepdim=True))

    def inferencer(self, cfg: Config, model: Any, load: Callable, **kwargs: Any) -> Any:
        """See :meth:`Task.inferencer`; mmpretrain's has no loading transform."""
        del kwargs['device']
        model._config, model._dataset_meta = cfg, model.dataset_meta  # The inferencer reads them there.
        result = resolve_name(self.inferencer_type)(model, **kwargs)
        preprocess = result.preprocess

        def load_and_preprocess(inputs: list[Any], batch_size: int = 1) -> Iterator[Any]:
            images = (load(dict(img_path=one))['img'] if isinstance(one, str) else one for one in inputs)
            return preprocess(images, batch_size)

        result.preprocess = load_and_preprocess
        return result
