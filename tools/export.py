"""Writes a network for a runtime and holds the file against PyTorch: ``python tools/export.py CONFIG``."""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table

import mmiformer  # noqa: F401  Before mmdet and its like: it makes torchvision importable beside a CPU torch.
from mmiformer import cli
from mmiformer.backbones.base import MIN_INPUT
from mmiformer.deploy import build_program, cut_windows_in_chunks
from mmiformer.deploy.comparing import Difference, compare, random_images, real_images
from mmiformer.deploy.detectors import DetectorProgram
from mmiformer.deploy.programs import FromPixels
from mmiformer.deploy.runtimes import RUNTIMES, Graph, Order
from mmiformer.errors import UserError
from mmiformer.inference import build_model

OTHER_SIZES = ((97, 131), (320, 448))


def main() -> None:
    """Parses the arguments, writes the file, opens it again and compares."""
    parser = argparse.ArgumentParser(description='Export a network to the runtime of a phone or server.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint', nargs='?', help='path or https address of the weights (default: as training starts)'
    )
    parser.add_argument('--to', required=True, choices=RUNTIMES, help='runtime')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        default=(224, 224),
        help='image size (default: 224 224)',
    )
    parser.add_argument('--dynamic', action='store_true', help='a file for all sizes and batches')
    parser.add_argument(
        '--what',
        choices=['backbone', 'model'],
        default='model',
        help='the feature maps of the backbone, or the whole model (default)',
    )
    parser.add_argument('--precision', default='fp32', help='fp32 (default), fp16, bf16 or int8')
    parser.add_argument(
        '--bake-input',
        action='store_true',
        help='the file takes N x H x W x 3 bytes, RGB, and normalises inside (default: N x 3 x H x W, '
        'normalised)',
    )
    parser.add_argument(
        '--channel-chunks',
        type=int,
        default=1,
        metavar='N',
        help="cut iFormer's windows N groups of channels at a time: same result, smaller tensors, as its "
        'authors do for iPhones with N = 16 (default: 1)',
    )
    parser.add_argument('--calibrate', metavar='FOLDER', help='images that int8 takes its ranges from')
    parser.add_argument(
        '--images', metavar='FOLDER', help="real images to compare on (default: the config's test images)"
    )
    parser.add_argument('--count', type=int, default=20, help='images of each folder at most (default: 20)')
    parser.add_argument('--out', help='file to write (default: CONFIG-PRECISION.SUFFIX in this folder)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
    args = parser.parse_args()

    runtime = RUNTIMES[args.to]
    size = (args.size[0], args.size[1])
    if min(size) < MIN_INPUT:
        raise UserError(f'--size {size[0]} {size[1]}: expected at least {MIN_INPUT} {MIN_INPUT}.')
    if args.channel_chunks < 1:
        raise UserError(f'--channel-chunks {args.channel_chunks}: expected 1 or more.')
    cfg = cli.load_config(args.config, args.cfg_options)
    name = f'{Path(args.config).stem}-{args.precision}'
    file = Path(args.out or f'{name}{runtime.suffix}')
    check_path(file, runtime.suffix)
    runtime.require()

    preprocessor = cfg.model.data_preprocessor if 'data_preprocessor' in cfg.model else cfg.data_preprocessor
    calibration: list[torch.Tensor] = []
    if args.calibrate:
        calibration = real_images(args.calibrate, size, preprocessor, args.bake_input, args.count)
    noise = random_images(size, args.bake_input)
    order = Order(noise[0], args.dynamic, args.precision, calibration)
    folder = args.images or test_images(cfg)
    images = real_images(folder, size, preprocessor, args.bake_input, args.count) if folder else []

    program: Any = build_program(build_model(cfg, args.checkpoint), args.what)
    if args.channel_chunks > 1:
        cut_windows_in_chunks(program, args.channel_chunks)
    runtime.check(order, detector=isinstance(program, DetectorProgram))
    if args.bake_input:
        program = FromPixels(program, preprocessor)
    print(f'Writing {file} ...', flush=True)
    runtime.export(program, order, file)
    report(runtime.files(file), runtime.inspect(file))
    if not runtime.runs_here:
        print(f'{file}: NOT run, since {runtime.name} has no runtime on this machine.')
        return
    session = runtime.open(file)
    found = {'noise': compare(program, session, noise)}
    if args.dynamic:  # Also where no side is a multiple of anything.
        for other in OTHER_SIZES:
            odd = random_images(other, args.bake_input)
            found[f'noise of {other[0]}x{other[1]}'] = compare(program, session, odd)
    if images:
        found[f'{len(images)} images of {folder}'] = compare(program, session, images)
    else:
        print('No real images at hand: compared on noise only; name some with --images FOLDER.')
    show(found)
    # Noise says little of int8, whose ranges are those of images.
    judged = found if args.precision != 'int8' or not images else dict(list(found.items())[1:])
    bad = [d.output for differences in judged.values() for d in differences if not d.within(args.precision)]
    if bad:
        raise UserError(
            f'{file}: {", ".join(dict.fromkeys(bad))} differ from PyTorch by more than {args.precision} may; '
            'the file is left for you to look into.'
        )


def check_path(file: Path, suffix: str) -> None:
    """Raises unless a file of this ending can be written there."""
    if file.suffix != suffix:
        raise UserError(f'--out {file}: expected a name that ends in {suffix}.')
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UserError(f'--out {file}: its folder does not exist; make it first.')
    if not os.access(folder, os.W_OK):
        raise UserError(f'--out {file}: its folder may not be written to; choose another one.')


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
            counted = d.kind != 'values'
            equal = f'{d.equal:.3%}' if counted else ''
            values = ('', '') if counted else (f'{d.l2:.1e}', f'{d.cosine:.6f}')
            table.add_row(d.output, where, *values, equal)
    Console().print(table)


if __name__ == '__main__':
    cli.run(main)
