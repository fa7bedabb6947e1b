"""Times networks against each other on this machine: ``python tools/benchmark.py NETWORK ...``."""

import argparse


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Time networks side by side, in interleaved rounds, on the CPU of this machine. Weights '
        'are random. Figures are median and 90th percentile over the rounds; a round is the mean over as '
        'many runs as take --seconds. Parameters and multiply-adds (attention products counted) are of the '
        'network as it runs, fused. Peak memory is how far a fresh process grows that loads the network and '
        'runs it three times, pages of the libraries that it touches included.',
        epilog='NETWORK: iformer_ARCH (t, s, m, l, l2, h), mocovit, timm/NAME for any of timm, or a config '
        'file for the backbone of its model; NAME:classify or NAME:pyramid for another task than --task.',
    )
    add = parser.add_argument
    add('networks', nargs='+', metavar='NETWORK', help='see below')
    add('--runtimes', nargs='+', default=['torch'], help='torch, onnx, openvino, ... (default: torch)')
    add('--precisions', nargs='+', default=['fp32'], help='fp32, fp16, bf16, int8 (default: fp32)')
    add('--sizes', nargs='+', default=['224x224'], metavar='HxW', help='height x width (default: 224x224)')
    add(
        '--task',
        choices=['classify', 'pyramid'],
        default='classify',
        help='logits, or maps of strides 4 to 32',
    )
    add('--batch', type=int, default=1, help='images at once (default: 1)')
    add('--threads', type=int, default=1, help='threads of each runtime (default: 1)')
    add('--rounds', type=int, default=9, help='at least 3 (default: 9)')
    add('--seconds', type=float, default=0.2, help='least time of a turn in a round (default: 0.2)')
    add('--compile', action='store_true', help='beside torch, also time it with torch.compile')
    add(
        '--reference',
        metavar='NETWORK[@RUNTIME]',
        help='print times as ratios to this network, on the same runtime or the one named; median over the '
        'rounds of the ratio within a round',
    )
    add('--accuracy', default='top1', help='published figure to show (default: top1)')
    add('--no-memory', action='store_true', help='do not measure the memory')
    add('--out', default='work_dirs/benchmark', help='folder of the results (default: work_dirs/benchmark)')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

import csv
import datetime
import difflib
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer.apis import cli
from mmiformer.benchmark import networks, timing
from mmiformer.benchmark.cost import count_macs
from mmiformer.benchmark.networks import Network
from mmiformer.benchmark.plotting import Point, plot_latency, short_name
from mmiformer.deploy.runtimes import RUNTIMES
from mmiformer.deploy.runtimes.base import Runtime
from mmiformer.deploy.wrappers import ExportWrapper
from mmiformer.models.backbones.base import MIN_INPUT
from mmiformer.tasks import METRICS
from mmiformer.utils.errors import UserError, first_line
from mmiformer.utils.machine import describe_machine
from mmiformer.zoo.published import published

COMPILED = 'torch-compile'
NOTES = {
    ('timm/ghostnet_100', 'pyramid'): 'timm taps it before its last four bottlenecks; ghostnet is the same '
    'network, tapped at its end'
}


@dataclass(frozen=True)
class Variant:
    """One row to be: a network at a size, on a runtime in a precision."""

    network: Network
    runtime: str
    precision: str
    size: tuple[int, int]

    def __str__(self) -> str:
        height, width = self.size
        return (
            f'{self.network.title} ({self.network.task}, {self.runtime} {self.precision}, {height}x{width})'
        )


@dataclass(frozen=True)
class Entry:
    """A variant that is ready to run.

    Attributes:
        variant: What it is.
        parameters: Number of the network's parameters.
        macs: Its multiply-adds for one image.
        call: What is timed.
        libraries: Modules that it needs.
    """

    variant: Variant
    parameters: int
    macs: int
    call: timing.Call
    libraries: Sequence[str]


def main() -> None:
    """Times, prints and writes the results."""
    args = parse_args()
    check_arguments(args)
    registry = {name: find_runtime(name) for name in args.runtimes}
    variants, references = plan(args, registry)
    out = writable_folder(args.out)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    machine = describe_machine(['timm', *(m for r in registry.values() if r for m in r.modules)])
    if (machine['load'] or 0) > 0.5:
        console.print(
            f'other programs keep {machine["load"]:.1f} of {machine["cores"]} cores busy: latencies will be '
            'too high, ratios less so'
        )
    torch.set_num_threads(args.threads)
    # The bar is drawn between turns: a thread that draws would run beside what is timed.
    bar = Progress(
        *(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
        console=console,
        auto_refresh=False,
        transient=True,
    )
    with tempfile.TemporaryDirectory() as folder, bar:
        entries, left_out = prepare(variants, registry, args, Path(folder), bar)
        if not entries:
            raise UserError(next(iter(left_out.values())))
        task = bar.add_task('Timing', total=len(entries) * (args.rounds + 1))
        advance = partial(bar.update, task, advance=1, refresh=True)
        times = timing.time_rounds([e.call for e in entries], args.rounds, args.seconds, advance)
        libraries = sorted({module for entry in entries for module in entry.libraries})
        peaks = [
            # Compiling takes memory of its own, which is not the network's.
            None
            if args.no_memory or entry.variant.runtime == COMPILED
            else timing.peak_memory(entry.call, args.threads, libraries)
            for entry in bar.track(entries, description='Memory')
        ]
    columns = {entry.variant: column for column, entry in enumerate(entries)}
    others = [columns.get(references[variant]) if references else None for variant in columns]
    latencies = timing.summarise(times, others)
    rows = [make_row(*row, args) for row in zip(entries, latencies, peaks, strict=True)]
    print_tables(rows, machine, args, console)
    for key in sorted({(v.network.name, v.network.task) for v in variants} & set(NOTES)):
        console.print(f'{key[0]}: {NOTES[key]}')
    for variant, reason in left_out.items():
        console.print(f'left out: {variant}: {reason}', markup=False)
    write_files(rows, machine, left_out, out)
    draw(rows, machine, args, out, console)
    if left_out:
        raise UserError(
            f'{len(left_out)} of {len(variants)} entries could not be prepared; they are named above.'
        )


def check_arguments(args: argparse.Namespace) -> None:
    """Raises where a value cannot be."""
    if args.accuracy not in METRICS:
        raise UserError(f'--accuracy {args.accuracy}: expected out of {", ".join(METRICS)}.')
    for name, least in (('batch', 1), ('threads', 1), ('rounds', 3)):
        if getattr(args, name) < least:
            raise UserError(f'--{name} {getattr(args, name)}: expected {least} or more.')
    if not args.seconds > 0:
        raise UserError(f'--seconds {args.seconds}: expected more than 0.')
    if args.compile and 'torch' not in args.runtimes:
        raise UserError('--compile', 'is for PyTorch', 'add torch to --runtimes')


def find_runtime(name: str) -> Runtime | None:
    """The runtime of a name, installed; None for PyTorch itself."""
    if name == 'torch':
        return None
    if name not in RUNTIMES:
        near = difflib.get_close_matches(name, ['torch', *RUNTIMES], 1)
        hint = f'; did you mean {near[0]}?' if near else '.'
        raise UserError(f'--runtimes {name}: expected out of {", ".join(["torch", *RUNTIMES])}{hint}')
    runtime = RUNTIMES[name]
    runtime.require()
    if not runtime.runs_here:
        raise UserError(f'--runtimes {name}: its files do not run on this machine.')
    return runtime


def plan(
    args: argparse.Namespace, registry: dict[str, Runtime | None]
) -> tuple[list[Variant], dict[Variant, Variant]]:
    """The variants to time, by size, network, runtime and precision; and the reference of each, if wanted."""
    wanted = [Network.parse(text, args.task) for text in args.networks]
    sizes = [parse_size(text) for text in args.sizes]
    kinds = []
    for name, runtime in registry.items():
        offered = tuple(timing.TORCH_PRECISIONS) if runtime is None else runtime.precisions
        names = [name, COMPILED] if args.compile and runtime is None else [name]
        kinds += [(own, precision) for own in names for precision in args.precisions if precision in offered]
    for precision in args.precisions:
        if precision not in (p for _, p in kinds):
            raise UserError(f'--precisions {precision}: none of {", ".join(registry)} has it.')
    variants = [Variant(n, *kind, size) for size in sizes for n in wanted for kind in kinds]
    references: dict[Variant, Variant] = {}
    if args.reference:
        name, _, runtime_name = args.reference.partition('@')
        changes: dict[str, Any] = dict(network=Network.parse(name, args.task))
        if runtime_name:
            precisions = [precision for name, precision in kinds if name == runtime_name]
            if not precisions:
                raise UserError(f'--reference {args.reference}: {runtime_name} is not among --runtimes.')
            changes.update(runtime=runtime_name, precision=precisions[0])
        references = {variant: replace(variant, **changes) for variant in variants}
        references |= {reference: reference for reference in references.values()}
    return list(dict.fromkeys([*variants, *references])), references


def parse_size(text: str) -> tuple[int, int]:
    """Height and width."""
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if not match or min(int(side) for side in match.groups()) < MIN_INPUT:
        raise UserError(
            f'--sizes {text}: expected HEIGHTxWIDTH of {MIN_INPUT} pixels or more, such as 512x512.'
        )
    return int(match[1]), int(match[2])


def writable_folder(path: str) -> Path:
    """The folder, made and tried out before a long run."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f'--out {path}: cannot be written to ({error.strerror}).') from error
    return folder


def prepare(
    variants: Sequence[Variant],
    registry: dict[str, Runtime | None],
    args: argparse.Namespace,
    folder: Path,
    bar: Progress,
) -> tuple[list[Entry], dict[Variant, str]]:
    """Builds and exports the variants; one that fails is left out, with the reason."""

    @cache
    def build(network: Network, size: tuple[int, int]) -> tuple[ExportWrapper, int]:
        program = network.build(*size)
        return program, count_macs(program, *size)

    entries: list[Entry] = []
    left_out: dict[Variant, str] = {}
    for number, variant in enumerate(bar.track(variants, description='Preparing')):
        try:
            program, macs = build(variant.network, variant.size)
            runtime = registry.get(variant.runtime)
            entries.append(make_entry(variant, program, macs, runtime, args, folder / f'{number}'))
        except Exception as error:  # Exporters raise anything; the other entries go on.
            kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
            left_out[variant] = kind + first_line(error)
    return entries, left_out


def make_entry(
    variant: Variant,
    program: ExportWrapper,
    macs: int,
    runtime: Runtime | None,
    args: argparse.Namespace,
    file: Path,
) -> Entry:
    """A variant made ready to run, on a runtime or in PyTorch."""
    image = torch.randn(args.batch, 3, *variant.size)
    if runtime is not None:
        file = file.with_suffix(runtime.suffix)
        call = timing.runtime_call(runtime, program, image, variant.precision, args.threads, file)
        libraries: Sequence[str] = runtime.modules
    else:
        call = timing.torch_call(program, image, variant.precision, variant.runtime == COMPILED)
        libraries = sorted({type(part).__module__ for part in program.modules()})
    call()  # Compiles, or opens the file.
    parameters = sum(p.numel() for p in program.parameters())
    return Entry(variant, parameters, macs, call, libraries)


def make_row(
    entry: Entry, latency: timing.Latency, peak: float | None, args: argparse.Namespace
) -> dict[str, Any]:
    """All figures of an entry, as they are written."""
    variant = entry.variant
    known = published(variant.network.name, args.accuracy)
    taught = published(variant.network.name, args.accuracy, distilled=True)
    return dict(
        network=variant.network.title,
        family=family_of(variant.network),
        task=variant.network.task,
        runtime=variant.runtime,
        precision=variant.precision,
        height=variant.size[0],
        width=variant.size[1],
        batch=args.batch,
        threads=args.threads,
        rounds=args.rounds,
        median_ms=1000 * latency.median,
        p90_ms=1000 * latency.p90,
        images_per_second=args.batch / latency.median,
        reference=args.reference if latency.ratio is not None else None,
        ratio=latency.ratio,
        peak_mib=peak,
        parameters=entry.parameters,
        macs=entry.macs,
        metric=args.accuracy,
        accuracy=known.value if known else None,
        accuracy_with_teacher=taught.value if taught else None,
        accuracy_source='; '.join(dict.fromkeys(row.source for row in (known, taught) if row)) or None,
        accuracy_size=next((row.size for row in (known, taught) if row), None),
    )


def family_of(network: Network) -> str:
    """Family in the picture; timm's form of our networks is one of its own."""
    known = (
        published(network.name)
        or published(network.name, distilled=True)
        or published(network.name, 'box_ap')
    )
    family = known.family if known else network.title
    ours = {row.family for name in networks.OURS if (row := published(name))}
    return f'{family} (timm)' if network.name.startswith('timm/') and family in ours else family


def print_tables(
    rows: Sequence[dict[str, Any]], machine: dict[str, Any], args: argparse.Namespace, console: Console
) -> None:
    """One table for each runtime, precision and size, the fastest first."""
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    console.print(f'{machine["processor"]}, {machine["cores"]} cores; {versions}', highlight=False)
    for panel in dict.fromkeys(panel_of(row) for row in rows):
        table = Table(
            title=f'{panel}; {tasks_of(rows)}, {args.threads} thread(s), batch {args.batch}',
            caption=f'{args.rounds} rounds; {args.accuracy} as published; * with a teacher',
            box=box.SIMPLE_HEAD,
        )
        table.add_column('network', no_wrap=True)
        for name in ('ms', 'p90', 'ratio', 'images/s', 'MiB', 'params M', 'MACs G', args.accuracy):
            table.add_column(name, justify='right')
        own = [row for row in rows if panel_of(row) == panel]
        mixed = len({row['task'] for row in own}) > 1
        for row in sorted(own, key=lambda r: r['median_ms']):
            table.add_row(
                row['network'] + (f':{row["task"]}' if mixed else ''),
                f'{row["median_ms"]:.2f}',
                f'{row["p90_ms"]:.2f}',
                '' if row['ratio'] is None else f'{row["ratio"]:.2f}',
                f'{row["images_per_second"]:.1f}',
                '-' if row['peak_mib'] is None else f'{row["peak_mib"]:.0f}',
                f'{row["parameters"] / 1e6:.2f}',
                f'{row["macs"] / 1e9:.3f}',
                ' '.join(f'{value:.1f}' + '*' * taught for value, taught in accuracies(row)) or '-',
            )
        console.print(table)


def tasks_of(rows: Sequence[dict[str, Any]]) -> str:
    """Their tasks, as a title names them."""
    return ' and '.join(dict.fromkeys(row['task'] for row in rows))


def accuracies(row: dict[str, Any]) -> list[tuple[float, bool]]:
    """The published ones: percent, and whether with a teacher."""
    both = ((row['accuracy'], False), (row['accuracy_with_teacher'], True))
    return [(value, taught) for value, taught in both if value is not None]


def panel_of(row: dict[str, Any]) -> str:
    """What a row is compared within."""
    return f'{row["runtime"]} {row["precision"]}, {row["height"]}x{row["width"]}'


def write_files(
    rows: Sequence[dict[str, Any]], machine: dict[str, Any], left_out: dict[Variant, str], out: Path
) -> None:
    """Writes ``benchmark.csv`` and ``benchmark.json``."""
    with (out / 'benchmark.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    content = dict(
        machine=machine,
        date=datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        command=shlex.join(['python', *sys.argv]),
        rows=rows,
        left_out=[dict(entry=str(variant), reason=reason) for variant, reason in left_out.items()],
    )
    (out / 'benchmark.json').write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def draw(
    rows: Sequence[dict[str, Any]],
    machine: dict[str, Any],
    args: argparse.Namespace,
    out: Path,
    console: Console,
) -> None:
    """Writes ``benchmark.png`` and says who is not in it."""
    shown = [row for row in rows if accuracies(row)]
    missing = sorted({row['network'] for row in rows if not accuracies(row)})
    if missing:
        console.print(f'not in the picture, no published {args.accuracy}: {", ".join(missing)}', markup=False)
    names = 'benchmark.csv, benchmark.json'
    (out / 'benchmark.png').unlink(missing_ok=True)  # That of an earlier run.
    mixed = len({row['task'] for row in shown}) > 1
    if shown:
        note = f'{machine["processor"]}, {args.threads} thread(s), batch {args.batch}, '
        note += f'{tasks_of(shown)}, {datetime.date.today()}'
        sizes = {
            f'{r["network"]} at {r["accuracy_size"]}' for r in shown if r['accuracy_size'] not in (None, 224)
        }
        if sizes:
            note += f'\ntop-1 at 224x224 pixels, of {", ".join(sorted(sizes))}'
        points = [
            Point(
                short_name(row['network'], row['family']),
                row['family'],
                row['median_ms'],
                value,
                panel_of(row) + (f', {row["task"]}' if mixed else ''),
                taught,
            )
            for row in shown
            for value, taught in accuracies(row)
        ]
        plot_latency(points, out / 'benchmark.png', 'published ' + METRICS[args.accuracy].label, note)
        names += ', benchmark.png'
    console.print(f'{out}: {names}', markup=False, highlight=False)


if __name__ == '__main__':
    cli.run(main)
