"""Times programs side by side: takes turns in rounds, and sums the times up."""

import concurrent.futures
import copy
import gc
import importlib
import inspect
import math
import multiprocessing
import pickle
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmiformer.cpu import prepare_for_cpu
from mmiformer.deploy.runtimes.base import Order, Runtime

Call = Callable[[], object]

TORCH_PRECISIONS = dict(fp32=torch.float32, bf16=torch.bfloat16)


def torch_call(
    program: nn.Module, image: torch.Tensor, precision: str = 'fp32', compiled: bool = False
) -> Call:
    """A call of a program in PyTorch, channels-last.

    Args:
        program: The program; it is left as it is.
        image: N x 3 x H x W.
        precision: A key of :data:`TORCH_PRECISIONS`. Defaults to ``'fp32'``.
        compiled: Whether ``torch.compile`` compiles it, for this size. Defaults to False.
    """
    program, image = _laid_out(copy.deepcopy(program), image, precision)
    if not compiled:
        return partial(_infer, program, image)
    # Networks of one class share their code, and with it dynamo's short cache: the ninth would silently run
    # uncompiled. A whole graph or an error, and a cache for each where this torch has it.
    options: dict[str, Any] = dict(dynamic=False, fullgraph=True)
    if 'isolate_recompiles' in inspect.signature(torch.compile).parameters:
        options['isolate_recompiles'] = True
    forward = torch.compile(program, **options)
    return partial(_infer, forward, image)


def _laid_out(program: nn.Module, image: torch.Tensor, precision: str) -> tuple[nn.Module, torch.Tensor]:
    """A program, which is changed, and its image in a precision, channels-last."""
    dtype = TORCH_PRECISIONS[precision]
    program = program.to(dtype)
    prepare_for_cpu(program)
    return program, image.to(dtype=dtype, memory_format=torch.channels_last)


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
    order = Order(image, precision=precision, calibration=calibration)
    runtime.check(order)
    runtime.export(program, order, file)
    return partial(runtime.open(file, threads), image.numpy())


def turns(entries: int, rounds: int, seed: int = 0) -> Iterator[list[int]]:
    """The order of each round: every entry once, shuffled anew by a fixed seed."""
    generator = random.Random(seed)
    for _ in range(rounds):
        yield generator.sample(range(entries), entries)


def time_rounds(
    calls: Sequence[Call], rounds: int = 9, seconds: float = 0.2, advance: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Times calls in interleaved rounds, so that what the machine does meanwhile falls on all alike.

    Each call is first warmed up, and in each round once more, for others have run since and its data has
    left the caches. What is measured is the mean over as many repetitions as take ``seconds``.

    Args:
        calls: What to time.
        rounds: How often each has its turn. Defaults to 9.
        seconds: How long a turn takes at least, in seconds. Defaults to 0.2.
        advance: Called after each warm-up and each turn: ``(rounds + 1) * len(calls)`` times.

    Returns:
        Seconds a call takes, rounds x calls.
    """
    repeats = []
    for call in calls:
        call()  # Compiles, or allocates what is kept.
        count = _count_within(call, seconds)
        repeats.append(max(1, math.ceil(count)))
        advance()
    times = np.empty((rounds, len(calls)))
    for row, order in enumerate(turns(len(calls), rounds)):
        for column in order:
            times[row, column] = _mean_time(calls[column], repeats[column])
            advance()
    return times


def _count_within(call: Call, seconds: float) -> float:
    """How many calls fit into so many seconds."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds / 2 or count == 0:
        call()
        count += 1
    return count * seconds / elapsed


def _mean_time(call: Call, repeats: int) -> float:
    call()
    collecting = gc.isenabled()
    gc.disable()  # As Python's timeit does.
    try:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats
    finally:
        if collecting:
            gc.enable()


@dataclass(frozen=True)
class Latency:
    """The rounds of one entry, summed up.

    Attributes:
        median: Seconds a call takes, median over the rounds.
        p90: Seconds a call takes, 90th percentile over the rounds (between two rounds, linearly).
        ratio: Median over the rounds of its time over the reference's in the same round; None without one.
    """

    median: float
    p90: float
    ratio: float | None = None


def summarise(times: np.ndarray, references: Sequence[int | None] | None = None) -> list[Latency]:
    """Sums up the times of each entry.

    Args:
        times: Rounds x entries, as :func:`time_rounds` returns them.
        references: For each entry the column of its reference, or None. Defaults to none.
    """
    medians, p90s = np.median(times, axis=0), np.percentile(times, 90, axis=0)
    ratios = [
        None if reference is None else float(np.median(times[:, column] / times[:, reference]))
        for column, reference in enumerate(references or [None] * times.shape[1])
    ]
    return [Latency(*row) for row in zip(medians.tolist(), p90s.tolist(), ratios, strict=True)]


def peak_memory(load: Callable[..., Call], *arguments: Any, libraries: Sequence[str] = ()) -> float | None:
    """What loading and running a network adds to the memory of a fresh process.

    A process that has imported the libraries, and nothing else, loads the network and runs it three times;
    measured is how far its resident set grew at most. So weights, activations, workspaces and buffers of the
    runtime count, as do pages of the libraries that are touched for the first time.

    Args:
        load: Function of a module that makes the call in the other process, e.g. :func:`load_program`.
        arguments: Its arguments, which are pickled.
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
        task = pickle.dumps((load, arguments))
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_measure_growth, task, tuple(libraries)).result()
    except Exception:  # Whatever a runtime dies of there, its latency is measured all the same.
        return None


def _measure_growth(task: bytes, libraries: Sequence[str]) -> float:
    import resource

    for library in libraries:
        importlib.import_module(library)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load, arguments = pickle.loads(task)
    call = load(*arguments)
    for _ in range(3):
        call()
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return growth / (2**20 if platform.system() == 'Darwin' else 2**10)  # Bytes there, KiB elsewhere.


def load_program(program: nn.Module, shape: tuple[int, ...], precision: str, threads: int) -> Call:
    """A call of a program in PyTorch, for :func:`peak_memory`."""
    torch.set_num_threads(threads)
    return partial(_infer, *_laid_out(program, torch.zeros(shape), precision))


def load_session(runtime: Runtime, file: Path, shape: tuple[int, ...], threads: int) -> Call:
    """A call of a runtime's file, for :func:`peak_memory`."""
    return partial(runtime.open(file, threads), np.zeros(shape, np.float32))
