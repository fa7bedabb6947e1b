"""Pictures of a run: its curves, and its predictions beside the truth."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import VISUALIZERS

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402  The backend must be chosen first.
from matplotlib.patches import Patch  # noqa: E402

# What mmengine writes beside the results of an evaluation.
_NO_RESULTS = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory'}


def plot_curves(work_dir: Path, out: Path) -> bool:
    """Draws the losses over the iterations and the evaluations, resumed runs as one.

    Args:
        work_dir: Folder with mmengine's ``*/vis_data/scalars.json``, one JSON object a line.
        out: Picture to write.

    Returns:
        Whether there was anything to draw.
    """
    records: list[dict[str, Any]] = []
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        # A killed run may leave half a line at the end.
        newer = [json.loads(x) for x in file.read_text().splitlines() if x.endswith('}')]
        # A run that went on from a checkpoint, or began anew, replaces what the older one did after it.
        start = min((r['step'] for r in newer if 'loss' in r), default=float('inf'))
        records = [r for r in records if r['step'] < start] + newer
    if not records:
        return False
    losses: dict[str, list[tuple[int, float]]] = defaultdict(list)
    results: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in records:
        for key, value in record.items():
            if not isinstance(value, (int, float)):
                continue
            if 'loss' in record:
                if 'loss' in key:
                    losses[key].append((record['step'], value))
            elif key not in _NO_RESULTS and value >= 0:  # COCO's metrics say -1 for "no such objects".
                results[key].append((record['step'], value))
    figure, axes = plt.subplots(1, 2 if results else 1, figsize=(14 if results else 7, 4), squeeze=False)
    for name, points in losses.items():
        axes[0, 0].plot(*zip(*points, strict=True), label=name, linewidth=2.5 if name == 'loss' else 1)
    axes[0, 0].set(title='losses', xlabel='iteration', ylabel='loss', yscale='log')
    axes[0, 0].legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    if any(len(points) > 1 for points in results.values()):
        for name, points in sorted(results.items()):
            axes[0, 1].plot(
                *zip(*points, strict=True), marker='o', markersize=3, label=f'{name} {points[-1][1]:.4g}'
            )
        axes[0, 1].set(title='evaluations', xlabel='iteration or epoch', ylim=(0, None))
        axes[0, 1].legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    elif results:
        names = sorted(results)
        values = [results[name][-1][1] for name in names]
        axes[0, 1].barh(names, values)
        axes[0, 1].bar_label(axes[0, 1].containers[0], fmt='%.4g', padding=2, fontsize=8)
        axes[0, 1].set(title='evaluation', xlim=(0, 1.0 if max(values) <= 1 else 1.15 * max(values)))
        axes[0, 1].invert_yaxis()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return True


class Painter:
    """Draws data samples of any task with the visualizer of a config.

    Args:
        cfg: The config.
        dataset_meta: Names of the classes, and their colours where the task has some of its own.
        score_thr: Least score of an object to draw. Defaults to 0.5.
    """

    def __init__(self, cfg: Config, dataset_meta: dict[str, Any], score_thr: float = 0.5) -> None:
        # Another name and no backend: this one writes nothing by itself.
        self.visualizer = VISUALIZERS.build(dict(cfg.visualizer, name='mmiformer', vis_backends=None))
        self.visualizer.dataset_meta = dataset_meta
        self.score_thr = score_thr

    def draw(self, image: np.ndarray, sample: Any, truth: bool = False) -> np.ndarray:
        """An image with the prediction upon it, or with the truth.

        Args:
            image: RGB, H x W x 3, uint8.
            sample: The data sample of the model's ``test_step``.
            truth: Whether to draw the truth instead of the prediction. Defaults to False.

        Returns:
            The picture, RGB, of the same size.
        """
        options = dict(pred_score_thr=self.score_thr)
        if 'pred_sem_seg' in sample:
            options = dict(with_labels=False)
            sample = sample.numpy()  # mmseg would take a tensor of one pixel for an index.
        self.visualizer.add_datasample(
            'mmiformer', image, sample, draw_gt=truth, draw_pred=not truth, show=False, **options
        )
        return self.visualizer.get_image()

    def legend(self, shares: dict[int, float], **options: Any) -> dict[str, Any]:
        """Arguments of matplotlib's ``legend`` that name classes of a label map in their colours.

        Args:
            shares: Share of the pixels by index of a class, see :func:`class_shares`.
            options: Further arguments of ``legend``.
        """
        names, colours = (self.visualizer.dataset_meta[key] for key in ('classes', 'palette'))
        handles = [
            Patch(color=tuple(c / 255 for c in colours[i]), label=f'{names[i].strip()}  {share:.1%}')
            for i, share in shares.items()
        ]
        return dict(handles=handles, fontsize=9, frameon=False, **options)


def class_shares(*label_maps: Any) -> dict[int, float]:
    """Share of the pixels by index of a class, the largest first.

    Args:
        label_maps: mmseg's ``PixelData`` of 1 x H x W; 255, which is no class, is left out.
    """
    labels = torch.cat([m.data.flatten() for m in label_maps]).cpu()
    counts = torch.bincount(labels[labels != 255])
    order = counts.argsort(descending=True)
    return {int(i): float(counts[i] / counts.sum()) for i in order if counts[i] > 0}


def best_classes(sample: Any, names: Sequence[str], number: int = 5) -> list[tuple[str, float]]:
    """Names and probabilities of the most probable classes of an image, the best first.

    Args:
        sample: mmpretrain's data sample of the model's ``test_step``.
        names: Names of the classes.
        number: How many to give. Defaults to 5.
    """
    scores, indices = sample.pred_score.cpu().topk(min(number, len(sample.pred_score)))
    return [(names[i], p) for i, p in zip(indices.tolist(), scores.tolist(), strict=True)]


def save_prediction(painter: Painter, image: np.ndarray, sample: Any, out: Path) -> None:
    """Writes the prediction upon its image, or beside it where it is of the image as a whole.

    Objects are drawn upon a picture of the image's own size; beside a label map is its legend, and beside a
    classified image are the probabilities of the five best classes.

    Args:
        painter: Draws it.
        image: RGB, H x W x 3, uint8.
        sample: The data sample of the model's ``test_step``.
        out: Picture to write.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if 'pred_label' in sample:
        _save_classified(image, best_classes(sample, painter.visualizer.dataset_meta['classes']), out)
        return
    picture = painter.draw(image, sample)
    if 'pred_sem_seg' not in sample:
        mmcv.imwrite(mmcv.rgb2bgr(picture), str(out))
        return
    height, width = picture.shape[:2]
    scale = max(1.0, 480 / max(height, width))  # beside a smaller picture the legend would be all there is
    figure = plt.figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(picture)
    axis.axis('off')
    shares = class_shares(sample.pred_sem_seg)
    rows = max(1, int(height * scale // 20))
    columns = -(-len(shares) // rows)
    axis.legend(
        **painter.legend(shares, loc='upper left', bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0)
    )
    figure.savefig(out, bbox_inches='tight', pad_inches=0.05)
    plt.close(figure)


def _save_classified(image: np.ndarray, best: list[tuple[str, float]], out: Path) -> None:
    height, width = image.shape[:2]
    inches = min(5 * width / height, 20)  # A panorama is shown smaller.
    figure, (left, right) = plt.subplots(1, 2, figsize=(inches + 5, 5), dpi=100, width_ratios=(inches, 3))
    left.imshow(image)
    left.axis('off')
    names, shares = zip(*best, strict=True)
    right.barh(range(len(names)), shares, tick_label=names)  # ImageNet has two classes 'crane'.
    right.bar_label(right.containers[0], fmt='{:.1%}', padding=2)
    right.set(xlim=(0, 1.2), xticks=(0, 0.5, 1))
    right.invert_yaxis()
    right.spines[['top', 'right']].set_visible(False)
    right.set_box_aspect(1)
    figure.tight_layout()
    figure.savefig(out)
    plt.close(figure)


def draw_predictions(model: BaseModel, dataset: BaseDataset, cfg: Config, out: Path, count: int = 8) -> None:
    """Draws the truth and the prediction of some images of a data set, evenly apart.

    Args:
        model: The trained model; its mode is kept.
        dataset: Data set with a test pipeline that loads annotations.
        cfg: The config, for its kind of visualizer.
        out: Picture to write.
        count: Images to draw. Defaults to 8.
    """
    painter = Painter(cfg, dataset.metainfo)
    training = model.training
    model.eval()
    count = min(count, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int)  # neighbours may be frames of one film
    samples = []
    for index in indices.tolist():
        with torch.no_grad():
            samples.append(model.test_step(pseudo_collate([dataset[index]]))[0])
    model.train(training)
    columns = 4 if 'pred_label' in samples[0] else 2
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 2.6 * rows + 0.8), squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for sample, axis in zip(samples, axes.flat, strict=False):
        # As the data set itself reads it, from wherever.
        image = dataset.pipeline.transforms[0](dict(img_path=sample.img_path))['img'][..., ::-1]
        if 'pred_label' in sample:
            names = dataset.metainfo['classes']
            right = int(sample.gt_label) == int(sample.pred_label)
            best, share = best_classes(sample, names, 1)[0]
            axis.imshow(image)
            title = f'{best} {share:.0%}' + ('' if right else f'\nis: {names[int(sample.gt_label)]}')
            axis.set_title(title, fontsize=9, color='black' if right else 'tab:red')
        else:
            pair = [painter.draw(image, sample, truth=True), painter.draw(image, sample)]
            axis.imshow(np.concatenate(pair, axis=1))
            axis.set_title(f'{Path(sample.img_path).name}: truth | prediction', fontsize=9)
    label_maps = [m for s in samples if 'pred_sem_seg' in s for m in (s.gt_sem_seg, s.pred_sem_seg)]
    figure.tight_layout(rect=(0, 0.5 / (2.6 * rows + 0.8), 1, 1) if label_maps else None)
    if label_maps:
        figure.legend(**painter.legend(class_shares(*label_maps), loc='lower center', ncols=8))
    figure.savefig(out, dpi=110)
    plt.close(figure)
