"""Exports a network to a runtime and compares the file with PyTorch: ``python tools/export.py CONFIG``."""

import argparse

from mmengine.config import DictAction

parser = argparse.ArgumentParser(description='Export a network to the runtime of a phone or server.')
add = parser.add_argument
add('config', help='config file, or work dir')
add('checkpoint', nargs='?', help='path or https address of the weights (default: those of the work dir)')
add(
    '--to',
    required=True,
    choices=['onnx', 'openvino', 'executorch', 'litert', 'coreml', 'ncnn'],
    help='runtime',
)
add(
    '--size', nargs=2, type=int, metavar=('H', 'W'), help='default: those of square test images, else 224 224'
)
add('--dynamic', action='store_true', help='a file for all sizes and batches')
add('--what', choices=['backbone', 'model'], default='model', help='what to export (default: model)')
add('--precision', default='fp32', help='fp32 (default), fp16, bf16 or int8')
add('--bake-input', action='store_true', help='take N x H x W x 3 bytes, RGB, and normalise in the file')
add('--channel-chunks', type=int, default=1, help="groups of channels to cut iFormer's windows in")
add('--calibrate', metavar='FOLDER', help='images to compute the ranges of int8 from')
add('--images', metavar='FOLDER', help="real images to compare on (default: the config's test images)")
add('--count', type=int, default=20, help='images to read of each folder (default: 20)')
add('--evaluate', action='store_true', help="evaluate the file and PyTorch on the config's test data")
add('--limit', type=int, metavar='N', help='evaluate on the first N images only')
add('--out', help='file to write (default: CONFIG-PRECISION-RUNTIME.SUFFIX)')
add('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from mmiformer.apis import cli
from mmiformer.apis.configs import weights_of
from mmiformer.apis.inference import build_model
from mmiformer.datasets.checks import limit_images
from mmiformer.deploy import build_export_wrapper, cut_windows_in_chunks, metadata
from mmiformer.deploy.comparing import Difference, compare, random_images, real_images
from mmiformer.deploy.exported import ExportedModel, fit_images
from mmiformer.deploy.runtimes import RUNTIMES, ExportOptions, Runtime, Session
from mmiformer.deploy.wrappers import FromPixels
from mmiformer.utils.errors import UserError

# Batch, height and width of further noise for dynamic files.
OTHER_SIZES = ((4, 97, 131), (2, 320, 448), (1, 32, 32))


def main() -> None:
    """Writes the file, opens it again and compares."""
    runtime, path = RUNTIMES[args.to], Path(args.config)
    cfg = cli.load_config(args.config, args.cfg_options)
    height, width = args.size = args.size or metadata.test_size(cfg)
    size = (height, width)
    checkpoint = args.checkpoint or (weights_of(path) if path.is_dir() else None)
    # A work dir has the name of its run, and one config.py.
    name = path.resolve().parent.name if path.name == 'config.py' else path.resolve().stem
    file = Path(args.out or f'{name}-{args.precision}-{args.to}{runtime.suffix}')
    check_path(file, runtime)
    if args.evaluate and args.what == 'backbone':
        raise UserError('--evaluate', 'a backbone has no metrics', 'export the model')
    runtime.require(args.precision)
    calibration = real_images(args.calibrate, size, args.count) if args.calibrate else []
    folder = args.images or test_images(cfg) or args.calibrate
    images = real_images(folder, size, args.count) if folder and runtime.runs_here else []

    model = build_model(cfg, checkpoint)
    wrapper: Any = runtime.suited(build_export_wrapper(model, args.what))
    reference: Any = build_export_wrapper(model, args.what, folded=False)
    cut_windows_in_chunks(wrapper, args.channel_chunks)
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    from_pixels = FromPixels(wrapper, preprocessor)
    if any(side % wrapper.divisor for side in size):
        problem = f'height and width of this network are multiples of {wrapper.divisor}'
        raise UserError('--size {} {}'.format(*size), problem, 'choose others')
    if args.bake_input:
        wrapper, reference = from_pixels, FromPixels(reference, preprocessor)

    def prepare(pixels: list[torch.Tensor]) -> list[torch.Tensor]:
        return pixels if args.bake_input else [from_pixels.normalise(image).contiguous() for image in pixels]

    noise = prepare(random_images(size))
    options = ExportOptions(noise[0], args.dynamic, args.precision, prepare(calibration))
    runtime.check(options)
    print(f'Writing {file} ...', flush=True)
    metadata.beside(file).unlink(missing_ok=True)  # That of an earlier file.
    runtime.export(wrapper, options, file)
    report(file, runtime)
    if args.what == 'model':
        store_metadata(cfg, model, from_pixels.wrapper, file)
    if not runtime.runs_here:
        print(f'{file}: NOT compared, since {runtime.name} does not run on this machine.')
        return
    inputs = {'noise': noise}
    for batch, height, width in OTHER_SIZES if args.dynamic else ():
        batch = batch if wrapper.batched else 1
        height, width = (-(-side // wrapper.divisor) * wrapper.divisor for side in (height, width))
        inputs[f'noise of {batch}x{height}x{width}'] = prepare(random_images((height, width), batch))
    real = f'{len(images)} images of {folder}'
    if images:
        inputs[real] = prepare(images)
    else:
        print('No real images: compared on noise only; name some with --images FOLDER.')
    session = runtime.open(file)

    def predict(image: np.ndarray) -> Sequence[np.ndarray]:
        return wrapper.finish(session(image), image.shape[1:3] if args.bake_input else image.shape[2:])

    found = {name: compare(reference, predict, part, args.precision) for name, part in inputs.items()}
    show(found)
    if args.evaluate:
        evaluate(cfg, model, runtime, session, preprocessor)
    # The ranges of int8 fit images, not noise.
    judged = [real] if images and args.precision == 'int8' else list(found)
    judge(file, [difference for name in judged for difference in found[name]], args.precision)


def store_metadata(cfg: Config, model: Any, wrapper: Any, file: Path) -> None:
    """Stores with the file what is needed to use it without its config."""
    size = None if args.dynamic else args.size
    try:
        info = metadata.describe(cfg, wrapper, size, args.bake_input, model.dataset_meta)
    except UserError as error:
        print(f'{file}: stored without metadata, so that tools/predict.py cannot use it. {error}')
    else:
        metadata.save(file, info)
        if file.suffix == '.onnx':
            print(f'Without torch: python {file.with_name("example.py")} {file} IMAGE')


def evaluate(cfg: Config, model: Any, runtime: Runtime, session: Session, preprocessor: Any) -> None:
    """Prints the metrics of PyTorch and of the file on the test data."""
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        cli.check_data(cfg, ('test',))
        fit_images(cfg, session.size)
        if args.limit is not None:
            limit_images(cfg, args.limit)
        cfg.load_from, cfg.log_level, cfg.custom_hooks = None, 'WARNING', []
        if 'backbone' in cfg.model:
            cfg.model.backbone.init_cfg = None
        runner = Runner.from_cfg(cfg)
        results: dict[str, dict[str, float]] = {}
        models = {'PyTorch': model, 'the file': ExportedModel(model, runtime, session, preprocessor)}
        for name, evaluated in models.items():
            print(f'Evaluating {name} ...', flush=True)
            runner.model = evaluated
            results[name] = runner.test()
    table = Table('metric', *results, title=f'On {len(runner.test_dataloader.dataset)} images')
    for metric in results['PyTorch']:
        if metric not in ('time', 'data_time'):
            table.add_row(metric, *(shown(metrics[metric]) for metrics in results.values()))
    Console().print(table)


def shown(figure: Any) -> str:
    """A figure, or those of each class, with four digits."""
    return ', '.join(f'{value:.4f}' for value in (figure if isinstance(figure, list) else [figure]))


def check_path(file: Path, runtime: Runtime) -> None:
    """Raises unless the runtime's files can have this name."""
    if file.suffix != runtime.suffix:
        raise UserError(f'--out {file}', f'{runtime.name} files end in {runtime.suffix}', 'rename it')
    for part in runtime.files(file):
        if part.exists() and not file.exists():  # ncnn and OpenVINO both write a .bin file.
            raise UserError(f'--out {file}', f'{part} belongs to another file', 'choose another name')


def test_images(cfg: Config) -> str | None:
    """Folder of the config's test images, if it exists."""
    dataset = cfg.test_dataloader.dataset
    prefix = dataset.get('data_prefix', '')
    inner = prefix if isinstance(prefix, str) else prefix.get('img') or prefix.get('img_path') or ''
    root = dataset.get('data_root') or ''
    return str(Path(root, inner)) if (root or inner) and Path(root, inner).is_dir() else None


def report(file: Path, runtime: Runtime) -> None:
    """Prints the size and the operators of a file."""
    parts, operators = runtime.files(file), runtime.inspect(file)
    inner = [f for part in parts for f in (part, *part.rglob('*')) if f.is_file()]
    size = sum(f.stat().st_size for f in inner) / 1e6
    kinds = ', '.join(f'{count} {kind}' for kind, count in operators.most_common())
    print(f'{" + ".join(map(str, parts))}: {size:.1f} MB; {operators.total()} operators: {kinds}')


def show(found: dict[str, list[Difference]]) -> None:
    """Prints the differences as a table."""
    table = Table('output', 'on', 'largest difference', title='The file against PyTorch')
    for name, differences in found.items():
        for difference in differences:
            table.add_row(difference.output, name, str(difference))
    Console().print(table)


def judge(file: Path, differences: list[Difference], precision: str) -> None:
    """Raises if an output differs by too much; prints a note if there was nothing to compare."""
    if not any(d.count for d in differences):
        print('NOT verified: nothing was detected on any image; name a trained CHECKPOINT and --images.')
    bad = dict.fromkeys(d.output for d in differences if not d.within(precision))
    if bad:
        problem = f'{", ".join(bad)} differ from PyTorch by more than {precision} may'
        raise UserError(file, problem, 'the file is kept so that you can examine it')


if __name__ == '__main__':
    cli.run(main)
