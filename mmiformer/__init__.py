"""Mobile hybrid vision backbones for OpenMMLab.

Importing this package registers its backbones in mmengine's root registry, so that ``type='IFormer'``
works unprefixed in mmdet, mmseg and mmpretrain configs. It replaces nothing in other packages. It adds two
things if they are missing: mmcv's compiled operators (:mod:`mmiformer.ops`), and the operator schemas of a
torchvision that was built for another torch.
"""

import importlib.util
import warnings

__version__ = '0.1.0'

# The requirements do not name mmengine and mmcv, since two distributions provide each of them.
_missing = [name for name in ('mmengine', 'mmcv') if importlib.util.find_spec(name) is None]

if _missing:
    warnings.warn(
        f'mmiformer {__version__}: {" and ".join(_missing)} not installed, so nothing is registered; '
        "pip install 'mmiformer[onedl]' (or '[openmmlab]' for the original line).",
        stacklevel=2,
    )
else:
    from mmiformer.utils import torchvision_ops as _torchvision_ops

    _torchvision_ops.declare_if_missing()

    from mmiformer import ops as _ops

    _ops.provide_extension()

    from mmiformer import datasets as _datasets  # noqa: F401  Registers its transforms.
    from mmiformer import engine as _engine  # noqa: F401  Registers its sampler, transform and hooks.
    from mmiformer.apis.hub import get_config, get_model, inferencer, list_models
    from mmiformer.models.backbones import IFormer, MoCoViT

    __all__ = ['IFormer', 'MoCoViT', '__version__', 'get_config', 'get_model', 'inferencer', 'list_models']
