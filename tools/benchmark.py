"""Times networks against each other on this machine: ``python tools/benchmark.py NETWORK ...``."""

import argparse

from arguments import ArgumentParser
from mmengine.config import DictAction


def size(text: str) -> tuple[int, int]:
    """Parses ``HxW``."""
    height, width = text.split('x')
    return int(height), int(width)


parser = ArgumentParser(
    description='Time networks side by side, in interleaved rounds, on the CPU of this machine. Weights '
    'are random unless given. Times are median and 90th percentile over the rounds; a round is the mean over '
    'at least --seconds. Parameters and multiply-adds (attention included) are those of the network as it '
    'runs, fused. Peak memory is the growth of a fresh process that loads it and runs it three times, '
    'including library pages that it touches. With --train, a call is a training step: forward and backward.',
    epilog='NETWORK: iformer_ARCH (t, s, m, l, l2, h), mocovit, timm/NAME, or a config file for the '
    'backbone of its model; NAME:classify or NAME:pyramid overrides --task. With --what model, CONFIG is the '
    'whole model, from a normalised image to the outputs of tools/export.py: with torch, onnx and openvino '
    'boxes, labels, scores and masks, non-maximum suppression inside, or a label map; elsewhere candidates, '
    'whose postprocessing is not timed. What a detector takes depends on how much it detects: give '
    'CONFIG=CHECKPOINT and --images. After tools/train.py, the config is in the work dir. Shares of the time '
    'are those of the operators in onnx fp32; the rest is decoding, suppression, RoIAlign and resizing.',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
add = parser.add_argument
add('networks', nargs='+', metavar='NETWORK', help='see below')
add('--runtimes', nargs='+', default=['torch'], help='torch, torch-compile, onnx, openvino, ...')
add('--precisions', nargs='+', choices=['fp32', 'fp16', 'bf16', 'int8'], default=['fp32'], help='of each')
add('--sizes', nargs='+', type=size, default=[(224, 224)], metavar='HxW', help='height and width, pixels')
add('--task', choices=['classify', 'pyramid'], default='classify', help='logits, or maps of strides 4-32')
add(
    '--train',
    action='store_true',
    help='time training steps in torch: forward and backward, no optimizer; bf16 is autocast. BatchNorm uses '
    'its stored statistics in pyramids, and as configs say. Memory is what the first step adds',
)
add('--what', choices=['backbone', 'model'], default='backbone', help='what is timed of configs')
add('--images', metavar='FOLDER', help='take the first images, resized, instead of noise; with --what model')
add('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides in all configs')
add('--device', default='cpu', help='cpu or cuda; cuda: with --train')
add('--channels-last', action='store_true', help='of --train; inference in torch has this layout anyway')
add('--batch', type=int, default=1, help='images per call')
add('--threads', type=int, default=1, help='threads of each runtime')
add('--rounds', type=int, default=9, help='how often each is timed')
add('--seconds', type=float, default=0.2, help='minimum duration of each measurement')
add(
    '--reference',
    metavar='NETWORK[@RUNTIME]',
    help='print the ratio to the time of this network, the median over the rounds; on the same runtime '
    'in the same precision, or in fp32 on the runtime given',
)
add('--accuracy', choices=['top1', 'box_ap', 'mask_ap', 'miou'], default='top1', help='published figure')
add('--no-memory', action='store_true', help='do not measure memory')
add('--out', default='work_dirs/benchmark', help='folder of the results')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import csv
import datetime
import itertools
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from mmiformer.apis import cli
from mmiformer.benchmark import timing
from mmiformer.benchmark.cost import count_macs, count_macs_by_module
from mmiformer.benchmark.networks import OURS, Network
from mmiformer.benchmark.plotting import Point, plot_costs, short_name
from mmiformer.benchmark.profiling import PARTS, profile_onnx
from mmiformer.benchmark.training import TrainingStep
from mmiformer.deploy.comparing import image_files, real_images
from mmiformer.deploy.runtimes import RUNTIMES
from mmiformer.deploy.wrappers import ExportWrapper, FromPixels
from mmiformer.tasks import METRICS
from mmiformer.utils.errors import UserError, first_line
from mmiformer.utils.machine import MODULES, describe_machine, summary
from mmiformer.zoo.entries import entries as zoo_entries
from mmiformer.zoo.published import REFERENCES, Published, published

TORCH = ('torch', 'torch-compile')
# Shares in whole models, by column: of the multiply-adds, and of the time.
SHARES = {
    '% of MACs in backbone / neck / head': ('backbone', 'neck', 'head'),
    '% of time in backbone / neck / head / rest': tuple(f'time_{part}' for part in PARTS),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """What one row is about: a network at a size, on a runtime in a precision."""

    network: Network
    runtime: str
    precision: str
    height: int
    width: int

    @property
    def panel(self) -> str:
        """The table and the axes it belongs to."""
        mode = ', training' * args.train + ', channels-last' * args.channels_last
        return f'{self.runtime} {self.precision}, {self.height}x{self.width}, {self.network.task}{mode}'


@dataclass(frozen=True)
class Entry:
    """A variant that is ready to run."""

    variant: Variant
    network: torch.nn.Module
    cost: Row
    call: Any
    stored: float | None


def main() -> None:
    """Times, prints and writes the results."""
    references = plan()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    # Drawn between measurements only: a thread that refreshes the bar would disturb them.
    progress: Any = partial(track, console=console, auto_refresh=False, transient=True)
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        entries = prepare(progress(references, 'Preparing'), Path(folder), failures)
        if not entries:
            raise UserError(*next(iter(failures.items())))
        calls = [entry.call for entry in entries]
        times = timing.time_rounds(calls, args.rounds, args.seconds, partial(progress, description='Timing'))
        modules = {m for e in entries for m in getattr(RUNTIMES.get(e.variant.runtime), 'modules', ())}
        libraries = sorted(modules | {type(part).__module__ for e in entries for part in e.network.modules()})
        peaks = {e.variant: peak_memory(e, libraries) for e in progress(entries, 'Memory')}
    columns: dict[Variant | None, np.ndarray] = {e.variant: times[:, i] for i, e in enumerate(entries)}
    rows = [
        make_row(e, columns[e.variant], columns.get(references[e.variant]), peaks[e.variant]) for e in entries
    ]
    machine = describe_machine([*MODULES, *modules], args.device)
    print_tables(rows, machine, console)
    write_files(rows, machine, failures, out)
    plot(rows, machine, out, console)
    for name, reason in failures.items():
        console.print(f'failed: {name}: {reason}', markup=False, soft_wrap=True)
    if failures:
        raise UserError(f'{len(failures)} of {len(references)} entries', 'could not be timed')


def plan() -> dict[Variant, Variant | None]:
    """The variants to time, each with its reference."""
    if not args.train and (args.device, args.channels_last) != ('cpu', False):
        raise UserError('--device and --channels-last', 'are for training steps', 'add --train')
    if args.images and (args.train or args.what == 'backbone'):
        raise UserError('--images', 'is for inference with whole models', 'add --what model')
    cli.require_device(args.device)
    kinds = [(r, p) for r in args.runtimes for p in args.precisions if p in precisions_of(r)]
    if not kinds:
        raise UserError('--precisions', f'{", ".join(args.runtimes)} has none of these', 'choose others')
    parse = partial(Network.parse, task=args.task, what=args.what, options=args.cfg_options)
    networks = [parse(text) for text in args.networks]
    variants = [Variant(n, *kind, *size) for size in args.sizes for n in networks for kind in kinds]
    if not args.reference:
        return dict.fromkeys(variants)
    name, _, runtime = args.reference.partition('@')
    changes: dict[str, Any] = dict(network=parse(name))
    if runtime:
        precisions_of(runtime)
        changes.update(runtime=runtime, precision='fp32')
    references: dict[Variant, Variant | None] = {v: replace(v, **changes) for v in variants}
    return references | {reference: reference for reference in references.values() if reference}


def precisions_of(runtime: str) -> Collection[str]:
    """The precisions of a runtime, which must be installed."""
    if runtime in TORCH:
        return timing.TORCH_PRECISIONS
    runtimes = {} if args.train else RUNTIMES
    if runtime not in runtimes:
        raise UserError(f"runtime '{runtime}'", f'expected one of {", ".join([*TORCH, *runtimes])}')
    RUNTIMES[runtime].require('int8' if 'int8' in args.precisions else 'fp32')
    return RUNTIMES[runtime].precisions


def prepare(variants: Iterable[Variant], folder: Path, failures: dict[str, str]) -> list[Entry]:
    """Builds and exports the variants, and runs each once."""

    @cache
    def build(network: Network, height: int, width: int) -> tuple[Any, torch.Tensor, Row]:
        image = torch.randn(args.batch, 3, height, width)
        build = partial(network.build_loss, batch=args.batch) if args.train else network.build
        built: Any = build(height, width)
        if network.task != 'model':
            return built, image, dict(macs=count_macs(built, height, width))
        if args.train:
            return built, image, {}
        if any(side % built.divisor for side in (height, width)):
            problem = f'height and width of this network are multiples of {built.divisor}'
            raise UserError('--sizes', problem, 'choose others')
        if args.batch > 1 and not built.batched:
            raise UserError(f'--batch {args.batch}', 'this network takes one image', 'choose 1')
        if args.images:
            pixels = torch.cat(real_images(image_files(args.images, args.batch), (height, width)))
            cfg = network.load_config()
            preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
            image = FromPixels(built, preprocessor).normalise(pixels).contiguous()
        return built, image, whole_cost(built, image)

    entries = []
    for number, variant in enumerate(variants):
        call: Any
        stored, compiled = None, variant.runtime == 'torch-compile'
        try:
            network, image, cost = build(variant.network, variant.height, variant.width)
            if args.train:
                layout = torch.channels_last if args.channels_last else torch.contiguous_format
                image = image.to(args.device, memory_format=layout)
                call = TrainingStep(network, image, variant.precision, compiled)
                stored = call.stored_memory()
            elif variant.runtime in TORCH:
                call = timing.torch_call(network, image, variant.precision, compiled)
            else:
                runtime = RUNTIMES[variant.runtime]
                file = folder / f'{number}{runtime.suffix}'
                call = timing.runtime_call(runtime, network, image, variant.precision, args.threads, file)
            call()
            if (variant.network.task, variant.runtime, variant.precision) == ('model', 'onnx', 'fp32'):
                times = profile_onnx(file, image.numpy(), args.threads)
                cost = cost | {f'time_{part}': share for part, share in times.items()}
            entries.append(Entry(variant, network, cost, call, stored))
        except Exception as error:  # Exporters raise exceptions of any type.
            kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
            failures[f'{variant.network.title} ({variant.panel})'] = kind + first_line(error)
    return entries


def whole_cost(wrapper: ExportWrapper, image: torch.Tensor) -> Row:
    """Multiply-adds of a model for an image, the shares of its parts, and how much it detects."""
    macs = count_macs_by_module(wrapper, image)
    name, total = f'{type(wrapper).__name__}.model', macs['Global']
    shares = {part: macs.get(f'{name}.{part}', 0) / total for part in ('backbone', 'neck')}
    with torch.no_grad():
        detections = len(wrapper(image)[0]) if wrapper.outputs[0] == 'boxes' else None
    return dict(macs=total // args.batch, **shares, head=1 - sum(shares.values()), detections=detections)


def peak_memory(entry: Entry, libraries: Sequence[str]) -> float | None:
    """Peak memory of an entry in MiB."""
    if args.device != 'cpu' and not args.no_memory:
        return entry.call.peak_gpu_memory()
    if entry.variant.runtime == 'torch-compile' or args.no_memory:  # Compilation itself takes memory.
        return None
    return timing.peak_memory(entry.call, args.threads, libraries, step=args.train)


def published_records(network: Network) -> list[Published]:
    """The published accuracies of a network, or that of a config's model, without and with a teacher."""
    metric = args.accuracy
    if network.task not in ('backbone', 'model'):
        records = (published(network.name, metric, distilled) for distilled in (False, True))
        return [record for record in records if record]
    ours = [
        Published(e.title, e.family, e.published[metric], e.source, e.distilled, None if e.framework else 224)
        for e in zoo_entries()
        if e.name == network.title and e.source and metric in e.published
    ]
    theirs = [
        Published(title.split()[-1], framework, figures[metric], f'metafile of {title}', size=None)
        for title, framework, figures in REFERENCES
        if metric in figures and network.title.replace('_', '-').startswith(f'{title.split()[-1].lower()}-')
    ]
    return ours + theirs


def make_row(entry: Entry, times: np.ndarray, others: np.ndarray | None, peak: float | None) -> Row:
    """All figures of an entry, as written to the files."""
    variant, name = entry.variant, entry.variant.network.name
    median = float(np.median(times))
    known = published_records(variant.network)
    plain = next((record for record in known if not record.distilled), None)
    distilled = next((record for record in known if record.distilled), None)
    family = known[0].family if known else variant.network.title
    if name.startswith('timm/') and family in {p.family for ours in OURS if (p := published(ours))}:
        family += ' (timm)'
    return dict(
        network=variant.network.title,
        family=family,
        label=short_name(known[0].name if known else variant.network.title, family),
        training=args.train,
        task=variant.network.task,
        runtime=variant.runtime,
        precision=variant.precision,
        device=args.device,
        channels_last=args.channels_last,
        height=variant.height,
        width=variant.width,
        batch=args.batch,
        threads=args.threads,
        rounds=args.rounds,
        median_ms=1000 * median,
        p90_ms=1000 * float(np.percentile(times, 90)),
        images_per_second=args.batch / median,
        reference=None if others is None else args.reference,
        ratio=None if others is None else float(np.median(times / others)),
        peak_mib=peak,
        stored_mib=entry.stored,
        parameters=sum(p.numel() for p in entry.network.parameters()),
        **dict.fromkeys(('macs', *itertools.chain(*SHARES.values()), 'detections')) | entry.cost,
        metric=args.accuracy,
        accuracy=plain and plain.value,
        accuracy_with_teacher=distilled and distilled.value,
        accuracy_source='; '.join(dict.fromkeys(record.source for record in known)) or None,
        accuracy_size=known[0].size if known else None,
        panel=entry.variant.panel,
    )


def print_tables(rows: Sequence[Row], machine: Row, console: Console) -> None:
    """Prints a table for each panel, the fastest first."""
    console.print(summary(machine), highlight=False)
    memory = dict(MiB='peak_mib') | (dict(stored='stored_mib') if args.train else {})
    shares = {title: keys for title, keys in SHARES.items() if any(row[keys[0]] is not None for row in rows)}
    found = ['detections'] if any(row['detections'] is not None for row in rows) else []
    columns = (
        *('ms', 'p90', 'ratio', 'images/s', *memory, 'params M', 'MACs G'),
        *(*shares, *found, args.accuracy),
    )
    for panel in dict.fromkeys(row['panel'] for row in rows):
        table = Table(
            Column('network', no_wrap=True),
            *(Column(name, justify='right') for name in columns),
            title=f'{panel}; threads {args.threads}, batch {args.batch}',
            caption=f'{args.rounds} rounds; {args.accuracy} as published; * with a teacher',
            box=box.SIMPLE_HEAD,
        )
        for row in sorted((row for row in rows if row['panel'] == panel), key=lambda row: row['median_ms']):
            table.add_row(
                row['network'],
                f'{row["median_ms"]:.2f}',
                f'{row["p90_ms"]:.2f}',
                '' if row['ratio'] is None else f'{row["ratio"]:.2f}',
                f'{row["images_per_second"]:.1f}',
                *('-' if row[key] is None else f'{row[key]:.0f}' for key in memory.values()),
                f'{row["parameters"] / 1e6:.2f}',
                '-' if row['macs'] is None else f'{row["macs"] / 1e9:.3f}',
                *(share_text([row[key] for key in keys]) for keys in shares.values()),
                *('-' if row[key] is None else str(row[key]) for key in found),
                ' '.join(f'{value:.1f}' + '*' * distilled for value, distilled in accuracies(row)) or '-',
            )
        console.print(table)


def share_text(shares: Sequence[float | None]) -> str:
    """Shares in percent, such as ``60/10/30``."""
    return '/'.join('-' if share is None else f'{100 * share:.0f}' for share in shares)


def name_parts(title: str) -> tuple[str, str]:
    """The network and the model in the name of a config, as the toolboxes name them."""
    model, _, rest = title.partition('_')
    return re.sub(r'_(\d+xb.*|coco|ade20k.*)$', '', rest).replace('_', ' ') or model, model.replace('-', '')


def accuracies(row: Row) -> list[tuple[float, bool]]:
    """The published accuracies of a row in percent, and whether each is with a teacher."""
    both = ((row['accuracy'], False), (row['accuracy_with_teacher'], True))
    return [(value, distilled) for value, distilled in both if value is not None]


def write_files(rows: Sequence[Row], machine: Row, failures: dict[str, str], out: Path) -> None:
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
        failures=failures,
    )
    (out / 'benchmark.json').write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def plot(rows: Sequence[Row], machine: Row, out: Path, console: Console) -> None:
    """Writes ``benchmark.png``, of networks with a published accuracy, and ``parameters.png``, of models."""
    time, memory = 'time of a step (ms)' if args.train else 'latency (ms)', 'peak memory (MiB)'
    points = []
    for row in rows:
        for accuracy in accuracies(row):
            points.append(Point(row['label'], row['family'], row['panel'], row['median_ms'], *accuracy, time))
            if args.train and row['peak_mib']:
                points.append(points[-1]._replace(cost=row['peak_mib'], quantity=memory))
    missing = sorted({row['network'] for row in rows if not accuracies(row)})
    if missing:
        console.print(f'not in the plot, no published {args.accuracy}: {", ".join(missing)}', markup=False)
    note = f'{machine["device"]}, threads {args.threads}, batch {args.batch}, {datetime.date.today()}'
    if args.what == 'model' and not args.train:
        sizes = []
        for row in rows:
            label, model = name_parts(row['network'])
            sizes.append(Point(label, model, row['panel'], row['median_ms'], row['parameters'] / 1e6))
        plot_costs(sizes, 'parameters (M), log scale', note, ranked=False).savefig(out / 'parameters.png')
    if points:
        metric = METRICS[args.accuracy]
        # The label of a downstream metric names the framework around all backbones.
        label = f'{metric.title} (%)' if args.what == 'model' else metric.label
        figure = plot_costs(points, f'published {label}', note)
        figure.savefig(out / 'benchmark.png')
    console.print(f'results: {out}', markup=False, highlight=False)


if __name__ == '__main__':
    cli.run(main)
