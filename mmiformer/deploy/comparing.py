"""Comparing an exported file with the network it was made from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch

from mmiformer.datasets import LoadCheckedImage
from mmiformer.deploy.detectors import shared
from mmiformer.deploy.runtimes import Session
from mmiformer.deploy.wrappers import ExportWrapper, FromPixels, Normalisation
from mmiformer.utils.errors import UserError, first_line

# Largest relative L2 difference, or for int8 the smallest cosine. Labels jump at borders, and detections at
# thresholds: for them the smallest share of equal ones.
BOUNDS = {'fp32': 1e-4, 'fp16': 1e-2, 'bf16': 3e-2}
COSINE = 0.99
EQUAL = {'fp32': 0.9999, 'fp16': 0.99, 'bf16': 0.98, 'int8': 0.95}
EQUAL_DETECTIONS = 0.99

_ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


@dataclass
class Difference:
    """How far an output of the file is from PyTorch's, over all images.

    Attributes:
        output: Its name.
        l2: Largest ``|file - torch| / |torch|``.
        cosine: Smallest cosine of the two as vectors.
        equal: Smallest share of equal elements.
        kind: ``'values'``, ``'labels'`` or ``'detections'``; the latter two are equal or not.
        detections: How many there were of them in PyTorch.
    """

    output: str
    l2: float = 0.0
    cosine: float = 1.0
    equal: float = 1.0
    kind: str = 'values'
    detections: int = 0

    def add(self, got: np.ndarray, expected: np.ndarray) -> None:
        """Takes one image's output into account; another shape, or NaN in it, is infinitely far."""
        if np.issubdtype(expected.dtype, np.integer):
            self.kind = 'labels'
        if got.shape != expected.shape or not np.isfinite(got).all():
            self.l2, self.cosine, self.equal = float('inf'), -1.0, 0.0
            return
        a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        self.l2 = max(self.l2, float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-12))
        self.cosine = min(self.cosine, float(a @ b) / norms if norms else float(not (a - b).any()))
        self.equal = min(self.equal, float((a == b).mean()))

    def add_detections(self, got: Sequence[np.ndarray], expected: Sequence[torch.Tensor]) -> None:
        """Takes one image's boxes, labels, scores and masks into account, in whatever order they are."""
        parts = [torch.from_numpy(part) for part in got]
        same = shared(parts, expected)
        for masks, others in zip(parts[3:], expected[3:], strict=True):
            for row, column in same.nonzero().tolist():
                same[row, column] = torch.allclose(masks[row], others[column], rtol=0, atol=1e-3)
        self.detections += same.shape[1]
        found = [float(same.any(dim).float().mean()) if same.shape[1 - dim] else 1.0 for dim in (0, 1)]
        self.equal = min(self.equal, *found)

    def within(self, precision: str) -> bool:
        """Whether it is as near as a file of this precision has to be."""
        if self.kind == 'detections':
            return self.equal >= EQUAL_DETECTIONS
        if self.kind == 'labels':
            return self.equal >= EQUAL[precision]
        return self.cosine >= COSINE if precision == 'int8' else self.l2 <= BOUNDS[precision]


def compare(
    program: ExportWrapper | FromPixels,
    session: Session,
    images: Iterable[torch.Tensor],
    reference: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] | None = None,
) -> list[Difference]:
    """Runs file and network on the same images.

    Args:
        program: The network as it was written.
        session: The file, opened by its runtime.
        images: Images as the program takes them.
        reference: What gives the outputs that the file's should be. Defaults to the program.

    Returns:
        One difference per output; of a detector one for all detections.
    """
    detector = program.outputs[0] == 'boxes'
    names = ['detections'] if detector else program.outputs
    differences = [Difference(name, kind='detections' if detector else 'values') for name in names]
    for image in images:
        with torch.no_grad():
            expected = (reference or program)(image)
        try:
            got = session(image.numpy())
        except Exception as error:  # Each runtime has its own kinds.
            shape = 'x'.join(map(str, image.shape))
            raise UserError(f'the file does not run on an image of {shape}: {first_line(error)}') from error
        if detector:
            differences[0].add_detections(got, expected)
        else:
            for difference, a, b in zip(differences, got, expected, strict=True):
                difference.add(a, b.numpy())
    return differences


def random_images(size: tuple[int, int], pixels: bool, batch: int = 1) -> list[torch.Tensor]:
    """Two of seeded noise: N x H x W x 3, uint8, with ``pixels``, else N x 3 x H x W, normalised."""
    generator = torch.Generator().manual_seed(0)
    if not pixels:
        return list(torch.randn((2, batch, 3, *size), generator=generator))
    return list(torch.randint(0, 256, (2, batch, *size, 3), dtype=torch.uint8, generator=generator))


def real_images(
    folder: str | Path, size: tuple[int, int], preprocessor: Any, pixels: bool, count: int
) -> list[torch.Tensor]:
    """The first images of a folder and those below it, by name, as a program takes them.

    Args:
        folder: The folder.
        size: Height and width, in pixels, that they are resized to.
        preprocessor: ``data_preprocessor`` of the config, for mean, std and the order of colours.
        pixels: Whether they stay N x H x W x 3, uint8, RGB; else they become N x 3 x H x W, normalised.
        count: How many at most.

    Raises:
        UserError: If there is no image, or one cannot be read.
    """
    if not Path(folder).is_dir():
        raise UserError(folder, 'no such folder', 'name one with images in it')
    files = sorted(f for f in Path(folder).rglob('*') if f.suffix.lower() in _ENDINGS and not f.is_dir())
    if not files:
        raise UserError(folder, 'no images in it', f'expected files that end in {", ".join(_ENDINGS)}')
    images, load = [], LoadCheckedImage()
    for file in files[:count]:
        image = load(dict(img_path=str(file)))['img']
        images.append(torch.from_numpy(mmcv.bgr2rgb(mmcv.imresize(image, size[::-1])))[None])
    return images if pixels else normalise(images, preprocessor)


def normalise(images: Sequence[torch.Tensor], preprocessor: Any) -> list[torch.Tensor]:
    """N x H x W x 3, uint8, RGB to N x 3 x H x W, normalised as a config does."""
    normalisation = Normalisation(preprocessor)
    return [normalisation(image).contiguous() for image in images]
