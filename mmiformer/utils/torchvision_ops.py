"""Lets ``import torchvision`` work beside a CPU build of torch."""

import importlib.util
from pathlib import Path

import torch

# Keeps the declarations alive for the life of the process: torch removes them with the object.
_library: torch.library.Library | None = None


def declare_if_missing() -> None:
    """Declares the schemas of torchvision's operators if its compiled part cannot be loaded.

    pip's torchvision is built for the CUDA build of torch. Beside a CPU torch its compiled part does
    not load, and ``import torchvision`` then dies with "operator torchvision::nms does not exist",
    although mmpretrain, timm and mmdet need only its Python side (transforms). With the two schemas
    declared the import succeeds; calling the operators still fails, as it must. Does nothing when
    torchvision is absent or whole.
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
    """Whether torchvision's compiled operators are there, beyond the schemas declared here."""
    return importlib.util.find_spec('torchvision') is not None and hasattr(torch.ops.torchvision, 'roi_align')
