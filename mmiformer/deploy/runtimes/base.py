"""What all runtimes have in common: writing a file, running it, looking into it."""

import copy
import importlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmiformer.deploy.rewriting import use_matmul_attention
from mmiformer.deploy.runtimes.converting import PlanarPixels, converting, silence, staged
from mmiformer.deploy.wrappers import FromPixels
from mmiformer.utils.errors import UserError

# From an image, as the program takes it, to its outputs.
Session = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class ExportOptions:
    """What file is wanted.

    Attributes:
        example: An image as the program takes it; its size is the file's, or with ``dynamic`` one of many.
        dynamic: Whether batch, height and width are free. Defaults to False.
        precision: One of the runtime's ``precisions``. Defaults to ``'fp32'``.
        calibration: Images as the program takes them, which int8 ranges are read off.
    """

    example: torch.Tensor
    dynamic: bool = False
    precision: str = 'fp32'
    calibration: Sequence[torch.Tensor] = ()


@dataclass(frozen=True)
class Graph:
    """What is in a file.

    Attributes:
        operators: How many there are of each.
        largest_rank: Dimensions of the tensor that has most, None where the file does not say.
    """

    operators: Counter[str] = field(default_factory=Counter)
    largest_rank: int | None = None


class Runtime(ABC):
    """A runtime of phones or servers, and its file format.

    Attributes:
        name: What ``--to`` calls it; the extra of this package that installs it has the same name.
        suffix: How its files' names end.
        weights_suffix: How the name of a second file ends, for formats that keep weights apart.
        modules: What is imported of it.
        precisions: Those that it can write.
        dynamic: Whether it can write files of free size.
        detectors: Whether it can write whole detectors (in fp32).
        runs_here: Whether it can run files on this machine.
        calibrated: Whether its int8 needs images to take ranges from.
        fused_attention: Whether it has attention as one operator; else it gets the explicit products.
        planar_pixels: Whether pixels are N x 3 x H x W, as image inputs of phones yield them, rather than
            N x H x W x 3.
    """

    name: str
    suffix: str
    weights_suffix: str = ''
    modules: tuple[str, ...]
    precisions: tuple[str, ...] = ('fp32',)
    dynamic: bool = False
    detectors: bool = False
    runs_here: bool = True
    calibrated: bool = True
    fused_attention: bool = False
    planar_pixels: bool = False

    def require(self) -> None:
        """Raises a :class:`UserError` if the runtime is not installed."""
        for module in self.modules:
            try:
                with silence():
                    importlib.import_module(module)
            except ImportError as error:
                raise UserError(
                    self.name,
                    f'{module} cannot be imported ({error})',
                    f"pip install 'mmiformer[{self.name}]'",
                ) from error

    def check(self, order: ExportOptions, detector: bool = False) -> None:
        """Raises a :class:`UserError` if the runtime has no such files."""
        if detector and (not self.detectors or order.precision != 'fp32'):
            raise UserError(
                f'--to {self.name} --precision {order.precision}',
                'whole detectors are written for onnx in fp32',
                'export --what backbone, and run the rest in your own code',
            )
        if order.precision not in self.precisions:
            raise UserError(
                f'--precision {order.precision}: {self.name} is written in {", ".join(self.precisions)}.'
            )
        if order.dynamic and not self.dynamic:
            raise UserError(
                '--dynamic', f'files for {self.name} have one size', 'export one for each --size instead'
            )
        if order.precision == 'int8' and self.calibrated and not order.calibration:
            raise UserError('--precision int8: needs --calibrate FOLDER, images like those it will see.')

    def export(self, program: nn.Module, order: ExportOptions, file: Path) -> None:
        """Writes a program (see :mod:`mmiformer.deploy.wrappers`) to a file; the order has been checked.

        Raises:
            UserError: If the program cannot be converted, or the file not be written.
        """
        program = copy.deepcopy(program)
        use_matmul_attention(program, not self.fused_attention)
        if self.planar_pixels and isinstance(program, FromPixels):
            program = PlanarPixels(program)
            order = replace(order, example=order.example.permute(0, 3, 1, 2).float().contiguous())
        with staged(*self.files(file)) as folder, converting(self.name):
            self.write(program, order, folder / file.name)

    @abstractmethod
    def write(self, program: Any, order: ExportOptions, file: Path) -> None:
        """Converts a program, which may be changed, and writes it into a folder that is thrown away later."""

    def files(self, file: Path) -> list[Path]:
        """What is written for the name ``file``: it, and for some formats the weights beside it."""
        return [file, *([file.with_suffix(self.weights_suffix)] if self.weights_suffix else [])]

    @abstractmethod
    def open(self, file: Path, threads: int | None = None) -> Session:
        """Loads a file to run it, with as many threads as told, or as the runtime thinks best."""

    @abstractmethod
    def inspect(self, file: Path) -> Graph:
        """Looks into a file."""


def trace(program: nn.Module, order: ExportOptions) -> torch.export.ExportedProgram:
    """The graph of a program, for the converters.

    With ``order.dynamic`` height and width are free, and the batch if the program allows. They
    are traced at a size at which no map has one row or column of windows, since a dimension that is 1
    while tracing stays 1. Conditions on the size are put off to run time rather than imposed on it:
    those that come up are of layouts in memory, which change no value and of which files know nothing.
    """
    shapes, example = None, order.example
    if order.dynamic:
        pixels = example.dtype == torch.uint8  # N x H x W x 3
        batch = 2 if getattr(program, 'batched', True) else 1
        example = example.new_zeros((batch, 544, 608, 3) if pixels else (batch, 3, 544, 608))
        free = (0, 1, 2) if pixels else (0, 2, 3)
        shapes = ({dim: torch.export.Dim.DYNAMIC for dim in (free if batch > 1 else free[1:])},)
    exported = torch.export.export(
        program, (example,), dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
    )
    drop_conditions(exported.graph)
    return exported


def drop_conditions(graph: torch.fx.Graph) -> None:
    """Takes the conditions that are put off to run time out of a graph, in place."""
    for node in list(graph.nodes):
        if node.op == 'call_function' and 'assert' in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code()
