"""Where an exported file spends its time."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

PARTS = ('backbone', 'neck', 'head', 'rest')


def profile_onnx(file: Path, image: np.ndarray, threads: int, runs: int = 5) -> dict[str, float]:
    """Measures the shares of a model's parts in its time, with the profiler of ONNX Runtime.

    Args:
        file: A whole model, as ``tools/export.py`` writes it: each operator names its module.
        image: N x 3 x H x W.
        threads: Number of threads.
        runs: Number of runs to measure, after one that is not. Defaults to 5.

    Returns:
        The share of each of :data:`PARTS`. ``'head'`` is all heads; ``'rest'`` is outside of the model's
        modules: decoding, suppression, RoIAlign and resizing to the image.
    """
    import onnx
    import onnxruntime

    part_of = {}
    for node in onnx.load(file).graph.node:
        scope = next((p.value for p in node.metadata_props if p.key == 'namespace'), '')
        names = [level.partition(':')[0] for level in scope.split('/') if level.startswith('model.')]
        part = names[0].removeprefix('model.').partition('.')[0] if names else 'rest'
        part = part if part in PARTS else 'head'
        part_of.update(dict.fromkeys((node.name, *node.output), part))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, 'profile'))
        session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
        for _ in range(1 + runs):
            session.run(None, {'image': image})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e for e in events if e['cat'] == 'Node' and e['name'].endswith('_kernel_time')]
    time: Counter[str] = Counter()
    part = 'rest'
    for event in kernels[len(kernels) // (1 + runs) :]:
        # The optimizer adds suffixes to names of nodes or outputs, and conversions of layouts between them.
        name = event['name'].removesuffix('_kernel_time').partition('/')[0].removesuffix('_nchwc')
        part = part_of.get(name, part)
        time[part] += event['dur']
    return {part: time[part] / time.total() for part in PARTS}
