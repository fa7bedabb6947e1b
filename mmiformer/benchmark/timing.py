"""Latency and peak memory of networks."""

import multiprocessing
import pickle
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.benchmark import Timer

from mmiformer.apis.inference import optimize_for_inference
from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session
from mmiformer.deploy.wrappers import ExportWrapper
from mmiformer.utils.memory import peak_resident_memory

Call = Callable[[], object]

TORCH_PRECISIONS = dict(fp32=torch.float32, bf16=torch.bfloat16)


def torch_call(
    network: nn.Module, image: torch.Tensor, precision: str = 'fp32', compiled: bool = False
) -> Call:
    """Returns a function that runs a network in PyTorch, optimised for its device.

    Args:
        network: The network. It is not modified.
        image: N x 3 x H x W.
        precision: A key of :data:`TORCH_PRECISIONS`. Defaults to ``'fp32'``.
        compiled: Whether to use ``torch.compile``. Defaults to False.
    """
    dtype = TORCH_PRECISIONS[precision]
    forward: Any = optimize_for_inference(network).to(dtype)
    if compiled:
        # Networks of one class share a cache of 8 compiled forms; any further network fails to compile.
        torch._dynamo.config.recompile_limit = 1000
        forward = torch.compile(forward, dynamic=False, fullgraph=True)
    return partial(_infer, forward, image.to(dtype=dtype, memory_format=torch.channels_last))


def _infer(forward: Callable[[torch.Tensor], object], image: torch.Tensor) -> object:
    with torch.inference_mode():
        return forward(image)


def runtime_call(
    runtime: Runtime, network: ExportWrapper, image: torch.Tensor, precision: str, threads: int, file: Path
) -> Call:
    """Exports a network and returns a function that runs the file.

    Args:
        runtime: The runtime.
        network: An export wrapper, see :mod:`mmiformer.deploy.wrappers`.
        image: N x 3 x H x W.
        precision: One of the runtime's. Ranges of int8 are taken from the image.
        threads: Number of threads.
        file: File to write.

    Raises:
        UserError: If the network cannot be exported.
    """
    options = ExportOptions(image, precision=precision, calibration=[image])
    runtime.export(runtime.suited(network), options, file)
    return partial(_run, runtime, file, threads, image.numpy())


@cache
def _session(runtime: Runtime, file: Path, threads: int) -> Session:
    return runtime.open(file, threads)


def _run(runtime: Runtime, file: Path, threads: int, image: np.ndarray) -> object:
    # The first call opens the file: an open session cannot be sent to another process.
    return _session(runtime, file, threads)(image)


def time_rounds(
    calls: Sequence[Call],
    rounds: int = 9,
    seconds: float = 0.2,
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> np.ndarray:
    """Times functions in interleaved rounds, so that a slow phase of the machine affects all of them.

    Each round times every function once, in random order from a fixed seed. ``torch.utils.benchmark`` warms
    the function up and repeats it for at least ``seconds``.

    Args:
        calls: Functions to time.
        rounds: Number of rounds. Defaults to 9.
        seconds: Minimum duration of each measurement. Defaults to 0.2.
        track: Wraps the sequence of measurements, for a progress bar.

    Returns:
        Mean seconds per call, rounds x calls.
    """
    threads = torch.get_num_threads()  # By default the timer sets one thread.
    timers = [Timer('call()', globals=dict(call=call), num_threads=threads) for call in calls]
    generator = random.Random(0)
    turns = [(i, j) for i in range(rounds) for j in generator.sample(range(len(calls)), len(calls))]
    times = np.empty((rounds, len(calls)))
    for row, column in track(turns):
        times[row, column] = timers[column].blocked_autorange(min_run_time=seconds).mean
    return times


def peak_memory(call: Call, threads: int, libraries: Sequence[str] = (), step: bool = False) -> float | None:
    """Measures how much loading and running a network adds to the memory of a fresh process.

    The process imports the libraries, then loads the network and runs it three times. The result is the
    growth of its peak resident set: weights, activations, workspaces and buffers, and also library pages that
    are touched for the first time. Of a training step, it is the growth during the first step alone.

    Args:
        call: Result of :func:`torch_call`, not compiled, or :func:`runtime_call`, or a training step. It must
            be picklable.
        threads: Number of threads of PyTorch.
        libraries: Modules to import first; those of the first call serve all later ones.
        step: Whether it is a training step; needs Linux. Defaults to False.

    Returns:
        MiB; None on Windows or if the process fails.
    """
    try:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload([__name__, *libraries])
        # Pickled here, because multiprocessing needs a file descriptor for each tensor.
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_measure_growth, pickle.dumps(call), threads, step).result()
    except Exception:  # A runtime that crashes there still has a latency.
        return None


def _measure_growth(pickled: bytes, threads: int, step: bool) -> float | None:
    torch.set_num_threads(threads)
    before = peak_resident_memory()
    if before is None:
        return None
    call = pickle.loads(pickled)
    if step:
        Path('/proc/self/clear_refs').write_text('5')  # The peak of loading is forgotten.
        before = peak_resident_memory() or 0
    for _ in range(1 if step else 3):
        call()
    return ((peak_resident_memory() or 0) - before) / 2**20
