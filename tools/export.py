"""Exports a network to a runtime and compares the file with PyTorch: ``python tools/export.py CONFIG``."""

import argparse

from mmengine.config import DictAction


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Export a network to the runtime of a phone or server.')
    add = parser.add_argument
    add('config', help='config file')
    add('checkpoint', nargs='?', help='path or https address of the weights (default: as training starts)')
    add('--to', required=True, help='runtime: onnx, openvino, ncnn, executorch or coreml')
    add(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        default=(224, 224),
        help='image size (default: 224 224)',
    )
    add('--dynamic', action='store_true', help='a file for all sizes and batches')
    add(
        '--what',
        choices=['backbone', 'model'],
        default='model',
        help='the feature maps of the backbone, or the whole model (default)',
    )
    add('--precision', default='fp32', help='fp32 (default), fp16, bf16 or int8')
    add(
        '--bake-input',
        action='store_true',
        help='the file takes N x H x W x 3 bytes, RGB, and normalises inside (default: N x 3 x H x W, '
        'normalised)',
    )
    add(
        '--channel-chunks',
        type=int,
        default=1,
        metavar='N',
        help="cut iFormer's windows N groups of channels at a time: same result, smaller tensors, as its "
        'authors do for iPhones with N = 16 (default: 1)',
    )
    add('--calibrate', metavar='FOLDER', help='images that int8 takes its ranges from')
    add('--images', metavar='FOLDER', help="real images to compare on (default: the config's test images)")
    add('--count', type=int, default=20, help='images of each folder at most (default: 20)')
    add('--out', help='file to write (default: CONFIG-PRECISION-RUNTIME.SUFFIX)')
    add('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # Answers --help before the imports below, which take seconds.

from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer.apis import cli
from mmiformer.apis.inference import build_model
from mmiformer.deploy import build_export_wrapper, cut_windows_in_chunks
from mmiformer.deploy.comparing import Difference, compare, random_images, real_images
from mmiformer.deploy.detectors import DetectorWrapper
from mmiformer.deploy.runtimes import RUNTIMES, ExportOptions, Graph, Runtime
from mmiformer.deploy.wrappers import FromPixels
from mmiformer.models.backbones.base import MIN_INPUT
from mmiformer.utils.errors import UserError

# Batch, height, width of dynamic files' trials, also where no side is a multiple of anything.
OTHERS = ((4, 97, 131), (2, 320, 448), (1, 32, 32))


def main() -> None:
    """Writes the file, opens it again and compares."""
    args = parse_args()
    check_arguments(args)
    runtime, size = RUNTIMES[args.to], (args.size[0], args.size[1])
    cfg = cli.load_config(args.config, args.cfg_options)
    file = Path(args.out or f'{Path(args.config).stem}-{args.precision}-{args.to}{runtime.suffix}')
    check_path(file, runtime)
    runtime.require()

    preprocessor = find_preprocessor(cfg, args.config)
    read = partial(
        real_images, size=size, preprocessor=preprocessor, pixels=args.bake_input, count=args.count
    )
    if args.calibrate and (args.precision != 'int8' or not runtime.calibrated):
        raise UserError(
            '--calibrate', f'{args.precision} for {runtime.name} takes no ranges from images', 'drop it'
        )
    noise = random_images(size, args.bake_input)
    calibration = read(args.calibrate) if args.calibrate else ()
    order = ExportOptions(noise[0], args.dynamic, args.precision, calibration)
    runtime.check(order)
    folder = args.images or test_images(cfg) or args.calibrate
    images = read(folder) if folder and runtime.runs_here else []

    model = build_model(cfg, args.checkpoint)
    program: Any = build_export_wrapper(model, args.what)
    if args.channel_chunks > 1:
        cut_windows_in_chunks(program, args.channel_chunks)
    runtime.check(order, detector=isinstance(program, DetectorWrapper))
    if args.bake_input:
        program = FromPixels(program, preprocessor)
    reference = program.reference(model)
    print(f'Writing {file} ...', flush=True)
    runtime.export(program, order, file)
    report(runtime.files(file), runtime.inspect(file))
    if not runtime.runs_here:
        unused = f', nor {args.images} looked at' if args.images else ''
        print(f'{file}: NOT run{unused}, since {runtime.name} has no runtime on this machine.')
        return
    trials = {'noise': noise}
    for batch, height, width in OTHERS if args.dynamic else ():
        count = batch if program.batched else 1
        own = random_images((height, width), args.bake_input, count)
        trials[f'noise of {count}x{height}x{width}'] = own
    real = {f'{len(images)} images of {folder}': images} if images else {}
    if not real:
        print('No real images at hand: compared on noise only; name some with --images FOLDER.')
    session = runtime.open(file)
    found = {where: compare(program, session, x, reference) for where, x in {**trials, **real}.items()}
    show(found)
    # Noise says little of int8, whose ranges are those of images.
    judged = real if args.precision == 'int8' and real else found
    judge(file, [found[where] for where in judged], args.precision)


def check_arguments(args: argparse.Namespace) -> None:
    """Raises where a value cannot be."""
    if args.to not in RUNTIMES:
        raise UserError(f'--to {args.to}: expected out of {", ".join(RUNTIMES)}.')
    if min(args.size) < MIN_INPUT:
        raise UserError(f'--size {args.size[0]} {args.size[1]}: expected at least {MIN_INPUT} {MIN_INPUT}.')
    for option, value in (('--channel-chunks', args.channel_chunks), ('--count', args.count)):
        if value < 1:
            raise UserError(f'{option} {value}: expected 1 or more.')


def judge(file: Path, found: list[list[Difference]], precision: str) -> None:
    """Raises if an output is further away than it may be; says so if nothing could be told."""
    if all(d.kind == 'detections' and not d.detections for differences in found for d in differences):
        print('NOT verified: nothing was detected on any image; name a trained CHECKPOINT and --images.')
    bad = [d.output for differences in found for d in differences if not d.within(precision)]
    if bad:
        raise UserError(
            file,
            f'{", ".join(dict.fromkeys(bad))} differ from PyTorch by more than {precision} may',
            'the file is left for you to look into',
        )


def find_preprocessor(cfg: Config, file: str) -> Any:
    """What the config does to pixels, ``mean`` and ``std`` among it."""
    if 'model' not in cfg:
        raise UserError(f'{file}: has no model to export.')
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if not preprocessor.get('mean') or not preprocessor.get('std'):
        raise UserError(file, 'its data_preprocessor needs mean and std', 'add them to the config')
    return preprocessor


def check_path(file: Path, runtime: Runtime) -> None:
    """Raises unless the runtime's files can be written there."""
    if file.suffix != runtime.suffix:
        raise UserError(f'--out {file}: expected a name that ends in {runtime.suffix}.')
    if not file.absolute().parent.is_dir():
        raise UserError(f'--out {file}', 'its folder does not exist', 'make it first')
    for part in runtime.files(file):
        # A package is known by its manifest, weights by the graph beside them.
        if part.is_dir() and not (part.suffix == '.mlpackage' and (part / 'Manifest.json').is_file()):
            raise UserError(f'--out {file}', f'{part} is a folder', 'choose another name')
        if part != file and part.exists() and not file.exists():
            raise UserError(f'--out {file}', f'{part} belongs to another file', 'choose another name')


def test_images(cfg: Config) -> str | None:
    """Folder of the config's test images, if it is there."""
    dataset = cfg.test_dataloader.dataset
    prefix = dataset.get('data_prefix', '')
    inner = prefix if isinstance(prefix, str) else prefix.get('img') or prefix.get('img_path') or ''
    folder = Path(dataset.get('data_root') or '', inner)
    return str(folder) if inner and folder.is_dir() else None


def report(files: list[Path], graph: Graph) -> None:
    """Prints what was written and what is in it."""
    inner = [f for file in files for f in ([file] if file.is_file() else file.rglob('*')) if f.is_file()]
    size = sum(f.stat().st_size for f in inner) / 1e6
    kinds = ', '.join(f'{count} {kind}' for kind, count in graph.operators.most_common())
    print(f'{" + ".join(map(str, files))}: {size:.1f} MB; {graph.operators.total()} operators: {kinds}')
    print(f'largest rank: {graph.largest_rank if graph.largest_rank is not None else "unknown"}')


def show(found: dict[str, list[Difference]]) -> None:
    """Prints the differences as a table."""
    table = Table(title='The file against PyTorch')
    for column in ('output', 'on', 'largest relative L2', 'smallest cosine', 'equal'):
        table.add_column(column)
    for where, differences in found.items():
        for d in differences:
            if d.kind == 'values':
                cells = (f'{d.l2:.1e}', f'{d.cosine:.6f}', '')
            elif d.kind == 'labels':
                cells = ('', '', f'{d.equal:.3%}')
            else:
                cells = ('', '', f'{d.equal:.3%} of {d.detections}' if d.detections else 'nothing found')
            table.add_row(d.output, where, *cells)
    Console().print(table)


if __name__ == '__main__':
    cli.run(main)
