"""Semantic segmentation: mmseg and ADE20K."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import PixelData

from mmiformer.tasks.base import Metric, Painter, Task
from mmiformer.utils.configs import walk


def class_shares(*label_maps: Any) -> dict[int, float]:
    """Each class's share of the pixels, by its index, largest first.

    Args:
        label_maps: mmseg's ``PixelData`` of 1 x H x W; pixels of 255 (ignored) do not count.
    """
    labels = torch.cat([m.data.flatten() for m in label_maps]).cpu()
    counts = torch.bincount(labels[labels != 255])
    order = counts.argsort(descending=True)
    return {int(i): float(counts[i] / counts.sum()) for i in order if counts[i] > 0}


def balancing_weights(pixels: np.ndarray) -> np.ndarray:
    """Weights of the classes in a loss, by their numbers of pixels; one that does not occur has 0.

    The inverse square root, scaled so that the mean over pixels is 1: with the plain inverse, rare classes
    spread over their surroundings.
    """
    shares = pixels / pixels.sum()
    weights = np.where(shares > 0, shares.clip(1e-9) ** -0.5, 0)
    return weights / (weights * shares).sum()


class SegmentationPainter(Painter):
    """Blends the colours of the classes into the image, with a legend."""

    def draw(self, image: np.ndarray, sample: Any, truth: bool = False, **options: Any) -> np.ndarray:
        """See :meth:`Painter.draw`."""
        # As an array: mmseg takes a tensor of one pixel for an index.
        return super().draw(image, sample.numpy(), truth, with_labels=False, **options)

    def save(self, image: np.ndarray, sample: Any, out: Path) -> None:
        """Writes the picture with a legend on its right; small pictures are enlarged."""
        from matplotlib.figure import Figure

        picture = self.draw(image, sample)
        height, width = picture.shape[:2]
        scale = max(1.0, 480 / max(height, width))  # Else the legend is larger than the picture.
        figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(picture)
        axes.axis('off')
        shares = class_shares(sample.pred_sem_seg)
        columns = -(-len(shares) // max(1, int(height * scale // 20)))
        place = dict(loc='upper left', bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0)
        axes.legend(**self._legend(shares), **place)
        figure.savefig(out, bbox_inches='tight', pad_inches=0.05)

    def summary(self, sample: Any) -> str:
        """The classes and their shares of the pixels."""
        names = self.visualizer.dataset_meta['classes']
        shares = class_shares(sample.pred_sem_seg)
        return ', '.join(f'{names[i].strip()} {share:.1%}' for i, share in shares.items())

    def legend(self, samples: Sequence[Any]) -> dict[str, Any]:
        """All classes of ground truth and predictions, below the panels."""
        maps = [m for sample in samples for m in (sample.gt_sem_seg, sample.pred_sem_seg)]
        return dict(self._legend(class_shares(*maps)), loc='lower center', ncols=8)

    def _legend(self, shares: dict[int, float]) -> dict[str, Any]:
        from matplotlib.patches import Patch

        names, colours = (self.visualizer.dataset_meta[key] for key in ('classes', 'palette'))
        handles = [
            Patch(color=tuple(c / 255 for c in colours[i]), label=f'{names[i].strip()}  {share:.1%}')
            for i, share in shares.items()
        ]
        return dict(handles=handles, fontsize=9, frameon=False)


class Segmentation(Task):
    """Semantic segmentation."""

    name, folder, scope = 'seg', 'segmentation', 'mmseg'
    metrics = dict(
        miou=Metric('mIoU', 'Semantic FPN 40k', 'ADE20K', 'mIoU', 1, 0.3, 0.8, 'Semantic Segmentation')
    )
    class_counts = ('decode_head', 'auxiliary_head')
    input_size = (512, 512)
    images = 20_210, 2_000
    toy_data = 'mmiformer.datasets.toy.ade.TOY_DATA'
    toy_batch_size, toy_lr = 4, 5e-4
    export_wrappers = {'*': 'mmiformer.deploy.wrappers.LabelMap'}
    inferencer_type = 'mmseg.apis.MMSegInferencer'
    visualizer = dict(type='SegLocalVisualizer', alpha=0.6)
    painter = SegmentationPainter

    def toy_dataset(self, data: Path, training: bool) -> dict[str, Any]:
        """See :meth:`Task.toy_dataset`."""
        split = 'training' if training else 'validation'
        return dict(
            type='mmiformer.datasets.segmentation.CheckedADE20KDataset',
            data_root=str(data),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
        )

    def fit_to_toy_data(self, cfg: Config) -> int:
        """Also reduces crops, and drops class weights, since the classes differ."""
        longest, crop = 256, (128, 128)
        parts = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader, cfg.tta_pipeline]
        steps = [step for _, step in walk(parts)]
        full = next(step.scale for step in steps if 'scale' in step)[1]
        for step in steps:
            if 'scale' in step:  # Test-time scales keep their ratio to the training scale, the first one.
                side = longest * step.scale[1] // full
                step.scale = (side, side)
            if 'ratio_range' in step:
                step.ratio_range = (0.8, 1.25)
            if 'crop_size' in step:
                step.crop_size = crop
        cfg.model.data_preprocessor.size = crop
        for _, part in walk(cfg.model):
            part.pop('class_weight', None)
        return 1100

    def draw_truth(self, height: int, width: int) -> Any:
        """Makes a map of the first class."""
        from mmseg.structures import SegDataSample

        label_map = PixelData(data=torch.zeros(1, height, width, dtype=torch.int64))
        return SegDataSample(gt_sem_seg=label_map, metainfo=dict(img_shape=(height, width)))

    def arrays(self, sample: Any) -> dict[str, np.ndarray]:
        """See :meth:`Task.arrays`."""
        return dict(label_map=sample.pred_sem_seg.data[0].cpu().numpy())

    def sample(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """See :meth:`Task.sample`."""
        from mmseg.structures import SegDataSample

        return SegDataSample(pred_sem_seg=PixelData(data=torch.from_numpy(arrays['label_map'])[None]))

    def inferencer(self, cfg: Config, model: Any, load: Callable, **kwargs: Any) -> Any:
        """See :meth:`Task.inferencer`; mmseg's needs the classes."""
        return super().inferencer(cfg, model, load, **{**model.dataset_meta, **kwargs})
