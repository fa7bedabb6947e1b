"""Golden figures of the authors' released code, and the rule that makes their weights and inputs.

``cases.json``, ``cases.npz`` and ``keys.json.gz`` were measured once on the authors' classification and
detection backbones (github.com/ChuanyangZheng/iFormer, v0.9) with weights made from the tensors' names.
"""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch

_HERE = Path(__file__).parent

CASES: dict = json.loads((_HERE / 'cases.json').read_text())
KEYS: dict = json.loads(gzip.decompress((_HERE / 'keys.json.gz').read_bytes()))
_KEPT = np.load(_HERE / 'cases.npz')


def rng(text: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(text.encode())))


def made_up(name: str, shape: list[int]) -> torch.Tensor:
    """The made-up tensor of a parameter or buffer's official name."""
    if name.endswith('num_batches_tracked'):
        return torch.tensor(0)
    z = rng(name).standard_normal(shape)
    last = name.rsplit('.', 1)[-1]
    if last == 'running_var':
        z = 0.5 + abs(z)
    elif last in ('running_mean', 'bias'):
        z = 0.1 * z
    elif last == 'gamma':
        z = 0.5 + 0.1 * z
    elif len(shape) == 1:
        z = 1 + 0.1 * z
    else:
        z = 0.7 * z / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def state_dict(network: str) -> dict[str, torch.Tensor]:
    """Made-up weights of a network (``cls_m``, ``det_l``, ...) under their official names."""
    return {name: made_up(name, shape) for name, shape in KEYS[network]}


def image(case: str) -> torch.Tensor:
    shape = CASES[case]['input_shape']
    z = rng('input:' + CASES[case]['input_tag']).standard_normal(shape)
    return torch.from_numpy(z.astype(np.float32))


def error(case: str, output: str, found: torch.Tensor) -> float:
    """Relative L2 error on the elements of an output that were kept."""
    key = f'{case}/{output}'
    assert list(found.shape) == CASES[case]['outputs'][output]['shape']
    size = found.numel()
    index = np.sort(rng('index:' + key).choice(size, min(4096, size), replace=False))
    kept = _KEPT[key]
    return float(np.linalg.norm(found.detach().numpy().ravel()[index] - kept) / np.linalg.norm(kept))
