"""What all runtimes share: writing a file, running it, listing its operators."""

import contextlib
import copy
import errno
import importlib
import os
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmiformer.deploy.rewriting import use_matmul_attention
from mmiformer.deploy.wrappers import ExportWrapper, FromPixels
from mmiformer.utils.errors import UserError, first_line


@dataclass(frozen=True)
class Session:
    """A file that is open.

    Attributes:
        run: Maps an image, as the exported wrapper takes it, to the outputs.
        shape: Of its input; what is free is None or a name.
        pixels: Whether it takes pixels, see :class:`~mmiformer.deploy.wrappers.FromPixels`.
    """

    run: Callable[[np.ndarray], Sequence[np.ndarray]]
    shape: Sequence[Any]
    pixels: bool

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of its images in pixels; None if they are free."""
        size = tuple(self.shape[1:3] if self.pixels else self.shape[2:4])
        return size if all(isinstance(side, int) for side in size) else None

    def __call__(self, image: np.ndarray) -> Sequence[np.ndarray]:
        """Runs it on an image."""
        return self.run(image)


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        example: An image as the wrapper takes it; the file has its size, unless ``dynamic``.
        dynamic: Whether batch, height and width are free. Defaults to False.
        precision: One of the runtime's ``precisions``. Defaults to ``'fp32'``.
        calibration: Images as the wrapper takes them, from which int8 ranges are computed.
    """

    example: torch.Tensor
    dynamic: bool = False
    precision: str = 'fp32'
    calibration: Sequence[torch.Tensor] = ()


class Runtime(ABC):
    """A runtime of phones or servers, and its file format.

    Attributes:
        name: Its name in ``--to``, and that of the extra of this package that installs it.
        suffix: Suffix of its files.
        weights_suffix: Suffix of the second file, for formats that keep weights apart.
        modules: The modules to import.
        quantizers: Further ones to write int8.
        precisions: The precisions it supports.
        dynamic: Whether it supports files of free size.
        runs_here: Whether its files run on this machine.
        calibrated: Whether its int8 needs calibration images.
        suppression: Whether it has non-maximum suppression.
        candidates: Without it, how many candidates a detector returns at most; None for all, where it has no
            top-k.
        fused_attention: Whether it has attention as one operator; else attention is exported as matmuls.
        planar_pixels: Whether pixels are N x 3 x H x W, as image inputs of phones give them, rather than
            N x H x W x 3.
    """

    name: str
    suffix: str
    weights_suffix: str = ''
    modules: tuple[str, ...]
    quantizers: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ('fp32',)
    dynamic: bool = False
    runs_here: bool = True
    calibrated: bool = True
    suppression: bool = False
    candidates: int | None = 1000
    fused_attention: bool = False
    planar_pixels: bool = False

    def require(self, precision: str = 'fp32') -> None:
        """Raises a :class:`UserError` if the runtime is not installed, or what it needs for a precision."""
        for module in (*self.modules, *(self.quantizers if precision == 'int8' else ())):
            try:
                with silence():
                    importlib.import_module(module)
            except ImportError as error:
                remedy = f"pip install 'mmiformer[{self.name}]'"
                raise UserError(self.name, f'cannot import {module} ({error})', remedy) from error

    def suited(self, wrapper: ExportWrapper) -> ExportWrapper:
        """The form of a wrapper that the runtime supports."""
        return wrapper if self.suppression else wrapper.without_suppression(self.candidates)

    def check(self, options: ExportOptions) -> None:
        """Raises a :class:`UserError` if the runtime does not support the options."""
        if options.precision not in self.precisions:
            remedy = f'choose from {", ".join(self.precisions)}'
            raise UserError(f'--precision {options.precision}', f'{self.name} does not support it', remedy)
        if options.dynamic and not self.dynamic:
            problem = f'files for {self.name} have one size'
            raise UserError('--dynamic', problem, 'export one file for each --size')
        if options.precision == 'int8' and self.calibrated and not options.calibration:
            remedy = 'name some with --calibrate FOLDER'
            raise UserError('--precision int8', 'needs images to calibrate on', remedy)

    def export(self, wrapper: nn.Module, options: ExportOptions, file: Path) -> None:
        """Writes a wrapper (see :mod:`mmiformer.deploy.wrappers`) to a file; call :meth:`check` before.

        Raises:
            UserError: If the wrapper cannot be converted. Nothing is written then.
        """
        wrapper = copy.deepcopy(wrapper)
        use_matmul_attention(wrapper, not self.fused_attention)
        if self.planar_pixels and isinstance(wrapper, FromPixels):
            wrapper.planar = True
            options = replace(options, example=options.example.permute(0, 3, 1, 2).float().contiguous())
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.export-', dir=file.parent) as folder:
            try:
                with silence():
                    self.write(wrapper, options, Path(folder, file.name))
            except Exception as error:  # Each converter has its own.
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                problem = f'cannot convert this network ({type(error).__name__}: {first_line(error)})'
                raise UserError(self.name, problem, 'try --what backbone, or one fixed --size') from error
            for part in self.files(file):
                written = Path(folder, part.name)
                if written.is_dir() and part.is_dir():
                    shutil.rmtree(part)
                written.replace(part)

    @abstractmethod
    def write(self, wrapper: Any, options: ExportOptions, file: Path) -> None:
        """Converts a wrapper, which may be changed, and writes it to a temporary folder."""

    def files(self, file: Path) -> list[Path]:
        """All files that are written for ``file``: it, and for some formats the weights beside it."""
        return [file, *([file.with_suffix(self.weights_suffix)] if self.weights_suffix else [])]

    def open(self, file: Path, threads: int | None = None) -> Session:
        """Loads a file to run it on a number of threads, by default as many as the runtime chooses."""
        raise NotImplementedError(f'{self.name} does not run on this machine')

    @abstractmethod
    def inspect(self, file: Path) -> Counter[str]:
        """Counts the operators of a file by type."""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discards what Python and C++ code print, logs and progress bars included."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            for descriptor, original in enumerate(saved, 1):
                os.dup2(original, descriptor)
                os.close(original)


def trace(wrapper: Any, options: ExportOptions) -> torch.export.ExportedProgram:
    """Exports a wrapper to the graph that converters read.

    With ``options.dynamic`` height and width are free, and the batch if the wrapper takes several images. The
    example then has several rows and columns of windows on every map, since torch.export fixes dimensions
    that are 1. Guards on the size become assertions, which files do not store: they concern memory layouts.
    """
    shapes, example = None, options.example
    if options.dynamic:
        batch = 2 if wrapper.batched else 1
        shape = (batch, 544, 608, 3) if example.dtype == torch.uint8 else (batch, 3, 544, 608)
        example = example.new_zeros(shape)
        shapes = ({dim: torch.export.Dim.DYNAMIC for dim, size in enumerate(shape) if size not in (1, 3)},)
    return torch.export.export(
        wrapper, (example,), dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
    )


def drop_aliases(graph: torch.fx.Graph) -> None:
    """Removes aliases of tensors, which are no operation, and which converters do not know."""
    for node in graph.find_nodes(op='call_function', target=torch.ops.aten.alias.default):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
