"""Exports a network to a runtime and compares the file with PyTorch: ``python tools/export.py CONFIG``."""

from arguments import ArgumentParser
from mmengine.config import DictAction

parser = ArgumentParser(description='Export a network to the runtime of a phone or server.')
add = parser.add_argument
add('config', help='config file, or work dir')
add('checkpoint', nargs='?', help='path or https address of the weights (default: those of the work dir)')
add(
    '--to',
    required=True,
    choices=['onnx', 'openvino', 'executorch', 'litert', 'coreml', 'ncnn'],
    help='runtime',
)
add('--size', nargs=2, type=int, metavar=('H', 'W'), help="default: that of the config's test pipeline")
add('--dynamic', action='store_true', help='a file for all sizes and batches')
add('--what', choices=['backbone', 'model'], default='model', help='what to export (default: model)')
add('--precision', default='fp32', help='fp32 (default), fp16, bf16 or int8')
add('--bake-input', action='store_true', help='take N x H x W x 3 bytes, RGB, and normalise in the file')
add('--channel-chunks', type=int, default=1, help="groups of channels to cut iFormer's windows in")
add('--calibrate', metavar='FOLDER', help='images to compute the ranges of int8 from')
add('--images', metavar='FOLDER', help="images to compare on (default: those of the config's test data set)")
add('--count', type=int, default=20, help='images to read of each folder or data set (default: 20)')
add('--evaluate', action='store_true', help="evaluate the file and PyTorch on the config's test data")
add('--limit', type=int, metavar='N', help='evaluate on the first N images only')
add('--out', help='file to write (default: CONFIG-PRECISION-RUNTIME.SUFFIX)')
add('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import copy
import shlex
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from mmiformer.apis import cli
from mmiformer.apis.configs import weights_of
from mmiformer.apis.inference import (
    FilePredictor,
    ModelPredictor,
    Predictor,
    PredictorModel,
    build_model,
    resize_by_rule,
)
from mmiformer.datasets import LoadCheckedImage
from mmiformer.datasets.checks import build_datasets, datasets_of, limit_images, paths_of
from mmiformer.deploy import build_export_wrapper, cut_windows_in_chunks, metadata, postprocess
from mmiformer.deploy.comparing import (
    EQUAL,
    LEAST_SCORE,
    Difference,
    compare,
    evenly_spaced,
    image_files,
    random_images,
    real_images,
)
from mmiformer.deploy.fitting import divisor_of, fit_images, keep_images, preprocessor_of, size_of_images
from mmiformer.deploy.runtimes import RUNTIMES, ExportOptions, Runtime
from mmiformer.deploy.wrappers import FromPixels
from mmiformer.engine.resuming import best_checkpoint
from mmiformer.utils.errors import UserError

# Batch, height and width of further noise for dynamic files.
OTHER_SIZES = ((4, 97, 131), (2, 320, 448), (1, 32, 32))


def main() -> None:
    """Writes the file, opens it again and compares."""
    runtime, path = RUNTIMES[args.to], Path(args.config)
    cfg = cli.load_config(args.config, args.cfg_options)
    run = path.parent if path.name == 'config.py' else path  # The config of a run lies in its work dir.
    name = run.resolve().name if run.is_dir() else path.stem
    checkpoint = args.checkpoint or (weights_of(path) if path.is_dir() else best_checkpoint(run) or '')
    if not checkpoint:
        print('No CHECKPOINT: the file has the weights that training starts from, for timing only.')
    file = Path(args.out or f'{name}-{args.precision}-{args.to}{runtime.suffix}')
    check_path(file, runtime)
    if args.evaluate and args.what == 'backbone':
        raise UserError('--evaluate', 'a backbone has no metrics', 'export the model')
    runtime.require(args.precision)
    calibration = image_files(args.calibrate, args.count) if args.calibrate else []
    files, source = [], args.images
    if runtime.runs_here:
        files = image_files(args.images, args.count) if args.images else test_images(cfg, args.count)
        if not files:
            files, source = calibration, args.calibrate
    for image in files:  # Broken ones are found before the export.
        LoadCheckedImage()(dict(img_path=str(image)))

    model = build_model(cfg, str(checkpoint))
    wrapper: Any = runtime.suited(build_export_wrapper(model, args.what))
    reference: Any = runtime.suited(build_export_wrapper(model, args.what, folded=False))
    cut_windows_in_chunks(wrapper, args.channel_chunks)
    size = size_of(cfg, wrapper.divisor)
    info, of_input, fitted = None, None, copy.deepcopy(cfg)
    if args.what == 'model':
        fit_images(fitted, None if args.dynamic else size)
        model.data_preprocessor.test_cfg = preprocessor_of(fitted).get('test_cfg')  # By which mmseg pads.
        info, of_input = describe(fitted, wrapper, model.dataset_meta, file)
    predictor = ModelPredictor(model, fitted) if info else None
    from_pixels = FromPixels(wrapper, preprocessor_of(cfg))
    if args.bake_input:
        wrapper, reference = from_pixels, FromPixels(reference, preprocessor_of(cfg))

    def prepare(pixels: list[torch.Tensor]) -> list[torch.Tensor]:
        return pixels if args.bake_input else [from_pixels.normalise(image).contiguous() for image in pixels]

    noise = prepare(random_images(size))
    if info and predictor:
        seen = [as_in_file(predictor.load(str(image)), info) for image in calibration]
    else:
        seen = prepare(real_images(calibration, size))
    options = ExportOptions(noise[0], args.dynamic, args.precision, seen)
    runtime.check(options)
    print(f'Writing {file} ...', flush=True)
    runtime.export(wrapper, options, file)
    metadata.beside(file).unlink(missing_ok=True)  # That of an earlier file.
    report(file, runtime)
    if info:
        metadata.save(file, info)
        if file.suffix == '.onnx':
            command = ['python', file.with_name('example.py'), file, 'IMAGE']
            print('Without torch:', shlex.join(map(str, command)))
    if not runtime.runs_here:
        print(f'{file}: NOT compared, since {runtime.name} does not run on this machine.')
        return
    inputs = {'noise': noise}
    for batch, height, width in OTHER_SIZES if args.dynamic else ():
        batch = batch if wrapper.batched else 1
        height, width = rounded_up((height, width), wrapper.divisor)
        inputs[f'noise of {batch}x{height}x{width}'] = prepare(random_images((height, width), batch))
    real = f'{len(files)} images of {source or "the test data set"}'
    if not files:
        print('No real images: compared on noise only; name some with --images FOLDER.')
    elif not info:
        inputs[real] = prepare(real_images(files, size))
    exported = FilePredictor(file) if info else None
    session = exported.session if exported else runtime.open(file)

    def named(outputs: Any, image: torch.Tensor) -> dict[str, np.ndarray]:
        if of_input and of_input['task'] == 'det':  # Candidates may come in another order.
            height, width = image.shape[1:3] if args.bake_input else image.shape[2:]
            return postprocess.finish(outputs, height, width, of_input)
        return dict(zip(wrapper.outputs, outputs, strict=True))

    def in_torch(image: torch.Tensor) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return named([output.numpy() for output in reference(image)], image)

    def in_file(image: torch.Tensor) -> dict[str, np.ndarray]:
        return named(session(image.numpy()), image)

    found = {name: compare(in_torch, in_file, part, args.precision) for name, part in inputs.items()}
    if files and predictor and exported:
        found[real] = compare(partial(predict, predictor), partial(predict, exported), files, args.precision)
    show(found)
    if exported and args.evaluate:
        model.data_preprocessor.test_cfg = preprocessor_of(cfg).get('test_cfg')
        evaluate(cfg, {'PyTorch': ModelPredictor(model, cfg), 'the file': exported})
    # The ranges of int8 fit images, not noise.
    judged = [real] if files and args.precision == 'int8' else list(found)
    judge(file, [difference for name in judged for difference in found[name]], args.precision)


def size_of(cfg: Config, divisor: int) -> tuple[int, int]:
    """Height and width of the file's images, of which the network and its preprocessor take multiples."""
    given = tuple(args.size or size_of_images(cfg))
    if min(given) < 1:
        raise UserError('--size {} {}'.format(*given), 'expected at least 1 pixel each', 'increase it')
    if args.what == 'model':
        divisor = divisor_of(preprocessor_of(cfg), divisor)
    size = rounded_up(given, divisor)
    source = '--size' if args.size else 'the size of the test pipeline'
    if size != given:
        source += f', rounded up to multiples of {divisor}'
    if not args.dynamic and args.size != list(size):
        advice = '' if args.size else '; --size H W changes it'
        print(f'The file takes images of {size[0]}x{size[1]}, {source}{advice}.')
    return size


def rounded_up(size: tuple[int, ...], divisor: int) -> tuple[int, int]:
    """The next height and width that are multiples of the divisor."""
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def describe(
    cfg: Config, wrapper: Any, meta: dict[str, Any], file: Path
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Metadata of the file, None if apps could not repeat the test pipeline; those for inputs of the file."""
    try:
        info = metadata.describe(cfg, wrapper, args.bake_input, meta)
        return info, metadata.of_input(info)
    except UserError as error:
        if args.evaluate:
            raise
        print(f'{file}: stored without metadata. {error}')
    loading = copy.deepcopy(cfg)
    for dataset in datasets_of(loading, 'test'):
        dataset.pipeline = dataset.pipeline[:1]
    return None, metadata.of_input(metadata.describe(loading, wrapper, args.bake_input, meta))


def as_in_file(image: np.ndarray, info: dict[str, Any]) -> torch.Tensor:
    """The input of the file for an image, H x W x 3, BGR."""
    return torch.from_numpy(postprocess.prepare(mmcv.bgr2rgb(image), info, resize_by_rule))


def predict(predictor: Predictor, file: Path) -> dict[str, np.ndarray]:
    """The prediction for an image file, as the predictor reads it."""
    least = LEAST_SCORE - EQUAL[args.precision][1]  # Of what may equal a detection that is compared.
    return predictor([predictor.load(str(file))], least)[0]


def evaluate(cfg: Config, predictors: dict[str, Predictor]) -> None:
    """Prints the metrics of predictors on the test data."""
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        cli.check_data(cfg, ('test',))
        keep_images(cfg)
        if args.limit is not None:
            limit_images(cfg, args.limit)
        cfg.load_from, cfg.log_level, cfg.custom_hooks = None, 'WARNING', []
        if 'backbone' in cfg.model:
            cfg.model.backbone.init_cfg = None
        runner = Runner.from_cfg(cfg)
        results: dict[str, dict[str, float]] = {}
        for name, predictor in predictors.items():
            print(f'Evaluating {name} ...', flush=True)
            runner.model = PredictorModel(predictor)
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


def test_images(cfg: Config, count: int) -> list[Path]:
    """Files of the config's test data set, evenly spaced; none if it is not on this machine."""
    places = [*paths_of(cfg, 'test'), *(dataset.get('data_root') for dataset in datasets_of(cfg, 'test'))]
    if not all(Path(place).exists() for place in places if place):
        return []
    datasets = build_datasets(cfg, 'test', pipeline=[])
    every = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    paths = [dataset.get_data_info(index).get('img_path') for dataset, index in evenly_spaced(every, count)]
    return [Path(path) for path in paths if path and Path(path).is_file()]  # Databases have no files.


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
