"""Comparing an exported file with the network in PyTorch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mmcv
import numpy as np
import torch

from mmiformer.datasets.loading import IMAGE_SUFFIXES, LoadCheckedImage
from mmiformer.utils.errors import UserError

# Largest difference of a file, by output and precision; see Difference.
LIMITS = {
    'values': dict(fp32=1e-4, fp16=1e-2, bf16=3e-2, int8=0.15),
    'labels': dict(fp32=1e-4, fp16=1e-2, bf16=2e-2, int8=5e-2),  # They differ at borders.
    # In the image file, to which mmseg resizes logits, and an app labels.
    'label_map': dict(fp32=2e-2, fp16=2e-2, bf16=3e-2, int8=7e-2),
    'probabilities': dict(fp32=1e-3, fp16=3e-2, bf16=0.1, int8=0.3),
    'detections': dict(fp32=1e-2, fp16=1e-2, bf16=5e-2, int8=0.15),
}
_SHARES = ('labels', 'label_map', 'detections')
# What equal detections have at least, the IoU, and at most, the difference of their scores.
EQUAL = dict(fp32=(0.99, 1e-3), fp16=(0.95, 1e-2), bf16=(0.9, 3e-2), int8=(0.8, 0.1))
# Detections below may be missing in one of two runs, at a threshold, or be suppressed by a box almost equal.
LEAST_SCORE = 0.3

Item = TypeVar('Item')


@dataclass
class Difference:
    """Largest difference between an output of the file and that of PyTorch over some images.

    Attributes:
        output: Name of the output.
        amount: Share that differs of ``labels``, ``label_map`` and ``detections``; of other outputs the
            relative L2 difference, ``|file - torch| / |torch|``.
        count: Number of values, labels or detections in PyTorch.
        different: Number of detections that differ.
    """

    output: str
    amount: float = 0.0
    count: int = 0
    different: int = 0

    def add(self, got: torch.Tensor, expected: torch.Tensor) -> None:
        """Adds the values or labels of one image; another shape, or NaN, is infinitely different."""
        self.count += expected.numel()
        if got.shape != expected.shape or not got.isfinite().all():
            amount = float('inf')
        elif self.output in _SHARES:
            amount = float((got != expected).float().mean())
        else:
            amount = float((got - expected).norm() / expected.norm().clamp(min=1e-12))
        self.amount = max(self.amount, amount)

    def add_detections(
        self, got: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], precision: str
    ) -> None:
        """Adds the boxes, labels, scores and masks of one image, in any order; low scores are left out."""
        same = match_detections(got, expected, *EQUAL[precision])
        missed, added = (
            int((~same.any(dim))[part[2] > LEAST_SCORE].sum()) for dim, part in ((0, expected), (1, got))
        )
        self.different += max(missed, added)
        self.count += int((expected[2] > LEAST_SCORE).sum())
        self.amount = self.different / max(self.count, 1)

    def within(self, precision: str) -> bool:
        """Whether the difference is acceptable for a file of this precision."""
        return self.amount <= LIMITS.get(self.output, LIMITS['values'])[precision]

    def __str__(self) -> str:
        return f'{self.amount:.3%} of {self.count}' if self.output in _SHARES else f'{self.amount:.1e}'


def match_detections(
    ours: Sequence[torch.Tensor],
    theirs: Sequence[torch.Tensor],
    least_iou: float = 0.99,
    score_difference: float = 1e-3,
) -> torch.Tensor:
    """Which detections of two runs on an image are equal: their classes are, and the rest nearly.

    Args:
        ours: Boxes, labels, scores and possibly probabilities of masks of N detections.
        theirs: The same of M detections.
        least_iou: What the IoU of boxes is above, and that of masks (sums of minima and maxima). Defaults to
            0.99.
        score_difference: What scores differ by less than. Defaults to 1e-3.

    Returns:
        N x M (bool).
    """
    from mmdet.structures.bbox import bbox_overlaps

    same = (bbox_overlaps(ours[0], theirs[0]) > least_iou) & (ours[1][:, None] == theirs[1])
    same &= (ours[2][:, None] - theirs[2]).abs() < score_difference
    for masks, others in zip(ours[3:], theirs[3:], strict=True):
        for row, column in same.nonzero().tolist():
            both, either = (op(masks[row], others[column]).sum() for op in (torch.minimum, torch.maximum))
            same[row, column] = both >= least_iou * either
    return same


def compare(
    reference: Callable[[Any], Mapping[str, np.ndarray]],
    file: Callable[[Any], Mapping[str, np.ndarray]],
    images: Iterable[Any],
    precision: str = 'fp32',
) -> list[Difference]:
    """Compares what PyTorch and the file make of the same images.

    Args:
        reference: Maps an image to the outputs of PyTorch, by name.
        file: The same of the file.
        images: The images, as both take them.
        precision: Precision of the file. Defaults to ``'fp32'``.

    Returns:
        One difference per output; of a detector one for all detections.
    """
    differences: dict[str, Difference] = {}
    for image in images:
        expected, got = (
            {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in run(image).items()}
            for run in (reference, file)
        )
        if 'boxes' in expected:
            names = [name for name in ('boxes', 'labels', 'scores', 'masks') if name in expected]
            ours, theirs = ([part[name] for name in names] for part in (got, expected))
            found = differences.setdefault('detections', Difference('detections'))
            found.add_detections(ours, theirs, precision)
            continue
        for name, output in expected.items():
            differences.setdefault(name, Difference(name)).add(got[name], output)
    return list(differences.values())


def random_images(size: tuple[int, int], batch: int = 1) -> list[torch.Tensor]:
    """Two batches of seeded noise, N x H x W x 3 (uint8)."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (2, batch, *size, 3), dtype=torch.uint8, generator=generator))


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of the items, evenly spaced from the first on."""
    number = min(count, len(items))
    return [items[i * len(items) // number] for i in range(number)]


def image_files(folder: str | Path, count: int) -> list[Path]:
    """Images in a folder and the folders in it, evenly spaced by name: some of each class or video.

    Args:
        folder: The folder.
        count: How many at most.

    Raises:
        UserError: If there is no image.
    """
    files = sorted(
        f for f in Path(folder).rglob('*') if f.suffix.lower() in IMAGE_SUFFIXES and not f.is_dir()
    )
    if not files:
        raise UserError(folder, 'no images found', f'name a folder with {", ".join(IMAGE_SUFFIXES)} files')
    return evenly_spaced(files, count)


def real_images(files: Iterable[Path], size: tuple[int, int]) -> list[torch.Tensor]:
    """Reads images and resizes them to a height and width in pixels, without keeping their ratio.

    Returns:
        Images, each 1 x H x W x 3, RGB (uint8).

    Raises:
        UserError: If one cannot be read.
    """
    load = LoadCheckedImage()
    images = (load(dict(img_path=str(file)))['img'] for file in files)
    return [torch.from_numpy(mmcv.bgr2rgb(mmcv.imresize(i, size[::-1])))[None] for i in images]
