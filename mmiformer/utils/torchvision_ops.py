"""Makes ``import torchvision`` work with a CPU build of torch."""

import importlib.util
from pathlib import Path

import torch

# torch removes the declarations when this object is deleted.
_library: torch.library.Library | None = None


def declare_if_missing() -> None:
    """Declares the schemas of torchvision's operators if its compiled part cannot be loaded.

    pip's torchvision is built for the CUDA build of torch. With a CPU build its compiled part does not load,
    and ``import torchvision`` fails with "operator torchvision::nms does not exist", although mmpretrain,
    timm and mmdet only need its transforms. With the two schemas the import succeeds; calling the operators
    still fails. Does nothing if torchvision is missing or intact.
    """
    global _library
    spec = importlib.util.find_spec('torchvision')
    if hasattr(torch.ops.torchvision, 'nms') or spec is None or not spec.submodule_search_locations:
        return
    for compiled in Path(spec.submodule_search_locations[0]).glob('_C*.so'):
        try:
            torch.ops.load_library(str(compiled))
        except OSError:
            _library = torch.library.Library('torchvision', 'DEF')
            _library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
            _library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')


def are_loaded() -> bool:
    """Whether torchvision's compiled operators are loaded, not only the schemas declared here."""
    return importlib.util.find_spec('torchvision') is not None and hasattr(torch.ops.torchvision, 'roi_align')
