"""Times networks side by side: builds them alike, takes turns in rounds, and sums the times up."""

import concurrent.futures
import copy
import difflib
import gc
import importlib.metadata
import inspect
import math
import multiprocessing
import os
import pickle
import platform
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer.backbones import IFormer
from mmiformer.deploy.programs import Features, Logits, Program, build_program
from mmiformer.deploy.runtimes.base import Order, Runtime
from mmiformer.errors import UserError, first_line
from mmiformer.memory_format import use_channels_last

Call = Callable[[], object]

TASKS = ('classify', 'pyramid')
TORCH_PRECISIONS = dict(fp32=torch.float32, bf16=torch.bfloat16)
STRIDES = (4, 8, 16, 32)
OURS: dict[str, dict[str, Any]] = {
    **{f'iformer_{arch}': dict(type='IFormer', arch=arch) for arch in IFormer.arch_settings},
    'mocovit': dict(type='MoCoViT', arch='1.0'),
    'ghostnet': dict(type='MoCoViT', arch='ghostnet'),
}


@dataclass(frozen=True)
class Network:
    """A network to time.

    Attributes:
        name: One of :data:`OURS`, ``timm/NAME``, or the path of a config.
        task: ``'classify'``: image to logits. ``'pyramid'``: image to feature maps of strides 4 (or 8) to 32.
            A config stands for its model's backbone in either case.
    """

    name: str
    task: str = 'classify'

    @classmethod
    def parse(cls, text: str, task: str = 'classify') -> 'Network':
        """Reads ``NAME`` or ``NAME:TASK``.

        Args:
            text: What the user gave.
            task: The task where none is named.

        Raises:
            UserError: If there is no such network or task; near names are given.
        """
        name, _, own_task = text.partition(':')
        if own_task and own_task not in TASKS:
            raise UserError(f"network '{text}': expected {' or '.join(TASKS)} after the colon.")
        if name.endswith('.py'):
            if not Path(name).is_file():
                raise UserError(
                    f'{name}: no such config file; see configs/ for those that come with mmiformer.'
                )
        elif name not in OURS and not (name.startswith('timm/') and _timm().is_model(name[len('timm/') :])):
            known = [*OURS, *(f'timm/{other}' for other in _timm().list_models())]
            near = [
                m for form in (name, f'timm/{name}') for m in difflib.get_close_matches(form, known, 3, 0.7)
            ]
            hint = f'; did you mean {" or ".join(list(dict.fromkeys(near))[:3])}?' if near else '.'
            raise UserError(
                f"network '{name}': expected one of {', '.join(OURS)}, timm/NAME or a config file{hint}"
            )
        return cls(name, own_task or task)

    @property
    def title(self) -> str:
        """Its name in tables: that of a config is its file's."""
        return Path(self.name).stem if self.name.endswith('.py') else self.name

    def build(self, height: int, width: int) -> Program:
        """The network with random weights, in the form for inference.

        BatchNorm has the statistics of noise: with those of a fresh network values shrink layer by layer
        until a CPU computes with denormal numbers, slowly. timm's networks are fused by timm's own means.

        Args:
            height: Height of the images, in pixels; some of timm's networks are made for one size.
            width: Their width.

        Raises:
            UserError: If timm cannot build it for the task or the size.
        """
        torch.manual_seed(0)
        if self.name in OURS:
            model = self._build_own()
            settle_statistics(model, height, width)
            return Features(model) if self.task == 'pyramid' else Logits(model)
        if not self.name.endswith('.py'):
            return self._build_timm(height, width)
        from mmiformer.cli import load_config

        cfg = load_config(self.name)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        if 'backbone' not in cfg.get('model', {}):
            raise UserError(f'{self.name}: its model has no backbone to time.')
        model = revert_sync_batchnorm(MODELS.build(_without_weights(cfg.model)))
        settle_statistics(model.backbone, height, width)
        return build_program(model, 'backbone')

    def _build_own(self) -> nn.Module:
        backbone: dict[str, Any] = dict(OURS[self.name])
        is_iformer = backbone['type'] == 'IFormer'
        if self.task == 'pyramid':
            backbone.update(out_indices=(0, 1, 2, 3), **(dict(window_size=16) if is_iformer else {}))
            return MODELS.build(backbone)
        init_default_scope('mmpretrain')
        network = MODELS.build(backbone)
        head = 'NormLinearClsHead' if is_iformer else 'GhostClsHead'
        return MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=network,
                head=dict(
                    type=f'mmiformer.classifiers.head.{head}',
                    num_classes=1000,
                    in_channels=network.out_channels[-1],
                ),
            )
        )

    def _build_timm(self, height: int, width: int) -> Program:
        from timm.utils.model import reparameterize_model

        name = self.name.removeprefix('timm/')
        options: dict[str, Any] = {}
        if getattr(_timm().get_pretrained_cfg(name), 'fixed_input_size', False):
            options['img_size'] = (height, width)
        outputs: tuple[str, ...] = ('logits',)
        try:
            if self.task == 'pyramid':
                info = _timm().create_model(name, features_only=True, **options).feature_info
                taps = {i: stride for i, stride in enumerate(info.reduction()) if stride in STRIDES}
                if tuple(taps.values())[-3:] != STRIDES[1:] or len(taps) > len(STRIDES):
                    raise UserError(
                        f'{self.name}: has no maps of strides 4 or 8 to 32, but of '
                        f'{", ".join(map(str, info.reduction()))}.'
                    )
                options.update(features_only=True, out_indices=tuple(taps))
                outputs = tuple(f'stride{stride}' for stride in taps.values())
            model = _timm().create_model(name, **options)
            settle_statistics(model, height, width)
            # reparameterize_model looks at children only.
            model = reparameterize_model(nn.Sequential(model))[0]
        except UserError:
            raise
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
            raise UserError(
                f'{self.name}: timm cannot build it for {self.task} at {height}x{width} '
                f'({first_line(error)}).'
            ) from error
        return _Foreign(model, outputs)


class _Foreign(Program):
    """A network that returns its outputs as timm's do."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__(model)
        self.outputs = outputs

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to the outputs."""
        out = self.model(image)
        return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError("timm is not installed; pip install 'mmiformer[benchmark]'.") from error
    return timm


def _without_weights(cfg: Config) -> Config:
    cfg = copy.deepcopy(cfg)
    cfg.backbone.init_cfg = None
    return cfg


def settle_statistics(model: nn.Module, height: int, width: int) -> None:
    """Gives every BatchNorm of ``model``, in place, the statistics of two images of noise."""
    norms = [module.train() for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    noise = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


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
    use_channels_last(program)
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


def describe_machine(modules: Sequence[str] = ()) -> dict[str, Any]:
    """What figures depend on: processor, cores, load of the last minute, system, and versions.

    Args:
        modules: Those whose versions are to be told beside Python's and torch's.
    """
    processor = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file() and (found := re.search(r'model name\s*:\s*(.+)', cpuinfo.read_text())):
        processor = found[1].strip()
    owners = importlib.metadata.packages_distributions()
    versions = {
        name: importlib.metadata.version(owners[name][0])
        for name in dict.fromkeys(('torch', *(m.partition('.')[0] for m in modules)))
        if name in owners
    }
    return dict(
        processor=processor,
        architecture=platform.machine(),
        cores=os.cpu_count(),
        load=os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
        capability=torch.backends.cpu.get_cpu_capability(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=versions,
    )
