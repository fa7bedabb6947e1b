"""Times programs side by side, in interleaved rounds, and measures the memory they take."""

import concurrent.futures
import importlib
import inspect
import multiprocessing
import pickle
import platform
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.benchmark import Timer

from mmiformer.apis.inference import optimize_for_inference
from mmiformer.deploy.runtimes.base import ExportOptions, Runtime, Session

Call = Callable[[], object]

TORCH_PRECISIONS = dict(fp32=torch.float32, bf16=torch.bfloat16)


def torch_call(
    program: nn.Module, image: torch.Tensor, precision: str = 'fp32', compiled: bool = False
) -> Call:
    """A call of a program in PyTorch, in the form that is fast on its device.

    Args:
        program: The program; it is left as it is.
        image: N x 3 x H x W.
        precision: A key of :data:`TORCH_PRECISIONS`. Defaults to ``'fp32'``.
        compiled: Whether ``torch.compile`` compiles it, for this size. Defaults to False.
    """
    dtype = TORCH_PRECISIONS[precision]
    forward: Any = optimize_for_inference(program).to(dtype)
    image = image.to(dtype=dtype, memory_format=torch.channels_last)
    if compiled:
        # Networks of one class share their code, and with it dynamo's short cache: the ninth would silently
        # run uncompiled. A whole graph or an error, and a cache for each where this torch has it.
        options: dict[str, Any] = dict(dynamic=False, fullgraph=True)
        if 'isolate_recompiles' in inspect.signature(torch.compile).parameters:
            options['isolate_recompiles'] = True
        forward = torch.compile(forward, **options)
    return partial(_infer, forward, image)


def _infer(forward: Callable[[torch.Tensor], object], image: torch.Tensor) -> object:
    with torch.inference_mode():
        return forward(image)


def runtime_call(
    runtime: Runtime, program: nn.Module, image: torch.Tensor, precision: str, threads: int, file: Path
) -> Call:
    """A call of a program in a runtime, from a file that is written for it.

    Args:
        runtime: The runtime.
        program: The program.
        image: N x 3 x H x W, the size of the file. The ranges of int8 are read off noise: they do not change
            what is computed, only its result.
        precision: One of the runtime's.
        threads: Threads of the runtime.
        file: Where the file is written.

    Raises:
        UserError: If the runtime has no such files.
    """
    calibration = [torch.randn_like(image) for _ in range(2)] if precision == 'int8' else ()
    order = ExportOptions(image, precision=precision, calibration=calibration)
    runtime.check(order)
    runtime.export(program, order, file)
    return partial(_run, runtime, file, threads, image.numpy())


@cache
def _session(runtime: Runtime, file: Path, threads: int) -> Session:
    return runtime.open(file, threads)


def _run(runtime: Runtime, file: Path, threads: int, image: np.ndarray) -> object:
    # Opened by the first call, so that a call can be pickled for another process.
    return _session(runtime, file, threads)(image)


def turns(entries: int, rounds: int, seed: int = 0) -> Iterator[list[int]]:
    """The order of each round: every entry once, shuffled anew by a fixed seed."""
    generator = random.Random(seed)
    for _ in range(rounds):
        yield generator.sample(range(entries), entries)


def time_rounds(
    calls: Sequence[Call], rounds: int = 9, seconds: float = 0.2, advance: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Times calls in interleaved rounds, so that what the machine does meanwhile affects all alike.

    In its turn a call is first warmed up, for others have run since and its data has left the caches;
    measured is the mean over as many repetitions as take ``seconds``, by ``torch.utils.benchmark``.

    Args:
        calls: What to time.
        rounds: How often each has its turn. Defaults to 9.
        seconds: How long a turn takes at least, in seconds. Defaults to 0.2.
        advance: Called after each first call and each turn: ``(rounds + 1) * len(calls)`` times.

    Returns:
        Seconds a call takes, rounds x calls.
    """
    threads = torch.get_num_threads()  # Else the timer sets one.
    timers = [Timer('call()', globals=dict(call=call), num_threads=threads) for call in calls]
    for call in calls:
        call()  # Compiles, or allocates what is kept.
        advance()
    times = np.empty((rounds, len(calls)))
    for row, order in enumerate(turns(len(calls), rounds)):
        for column in order:
            times[row, column] = timers[column].blocked_autorange(min_run_time=seconds).mean
            advance()
    return times


class Latency(NamedTuple):
    """The rounds of one entry, summed up.

    Attributes:
        median: Seconds a call takes, median over the rounds.
        p90: Seconds a call takes, 90th percentile over the rounds (between two rounds, linearly).
        ratio: Median over the rounds of its time over the reference's in the same round; None without one.
    """

    median: float
    p90: float
    ratio: float | None


def summarise(times: np.ndarray, references: Sequence[int | None]) -> list[Latency]:
    """Sums up the times of each entry.

    Args:
        times: Rounds x entries, as :func:`time_rounds` returns them.
        references: For each entry the column of its reference, or None.
    """
    return [
        Latency(
            float(np.median(own)),
            float(np.percentile(own, 90)),
            None if reference is None else float(np.median(own / times[:, reference])),
        )
        for own, reference in zip(times.T, references, strict=True)
    ]


def peak_memory(call: Call, threads: int, libraries: Sequence[str] = ()) -> float | None:
    """What loading and running a network adds to the memory of a fresh process.

    A process that has imported the libraries, and nothing else, loads the network and runs it three times;
    measured is how far its resident set grew at most. So weights, activations, workspaces and buffers of the
    runtime count, as do pages of the libraries that are touched for the first time.

    Args:
        call: A call of :func:`torch_call`, not compiled, or :func:`runtime_call`; it is pickled.
        threads: Threads of PyTorch.
        libraries: Modules to import beforehand. Those of the first call are imported once for all calls.

    Returns:
        MiB; None where the system cannot start processes so, or the other process failed.
    """
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__, *libraries])
    try:
        # As bytes, for multiprocessing would put tensors into shared memory, a file descriptor each.
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_measure_growth, pickle.dumps(call), threads, libraries).result()
    except Exception:  # Whatever a runtime dies of there, its latency is measured all the same.
        return None


def _measure_growth(pickled: bytes, threads: int, libraries: Sequence[str]) -> float:
    import resource  # Absent on Windows.

    torch.set_num_threads(threads)
    for library in libraries:
        importlib.import_module(library)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call = pickle.loads(pickled)
    for _ in range(3):
        call()
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return growth / (2**20 if platform.system() == 'Darwin' else 2**10)  # Bytes there, KiB elsewhere.
