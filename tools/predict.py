"""Predicts on images, videos and cameras: ``python tools/predict.py SOURCE MODEL [CHECKPOINT]``."""

from arguments import ArgumentParser
from mmengine.config import DictAction

parser = ArgumentParser(description='Draw, count and save the predictions of a model.')
add = parser.add_argument
add('source', help='image, folder, "pattern", .txt list, http(s) address, video, number of a camera, rtsp://')
add('model', help='config, work dir, name of a config of ours, or file of tools/export.py')
add('checkpoint', nargs='?', help='path or https address of the weights')
add('--config', help='config of an exported file, in place of what the file carries')
add('--out', default='work_dirs/predict', help='folder, or picture or .mp4 to write (default: %(default)s)')
add('--save', nargs='+', choices=['json', 'csv', 'masks'], default=[], help='also write the predictions')
add('--no-pictures', action='store_true', help='draw nothing')
add('--score-thr', type=float, default=0.3, help='least score of an object (default: 0.3)')
add('--batch', type=int, default=1, help='images of one size to predict on at once (default: 1)')
add('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
add('--compile', action='store_true', help='compile the backbone with torch.compile')
add('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value overrides')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmiformer.apis import cli, results
from mmiformer.apis.inference import open_predictor, predict_source
from mmiformer.apis.sources import Images, Video, open_source
from mmiformer.tasks import Painter
from mmiformer.utils.errors import UserError


def main() -> None:
    """Predicts, writes what is asked for, and prints a summary."""
    device = cli.require_device(args.device)
    if args.batch < 1:
        raise UserError(f'--batch {args.batch}', 'expected a positive number', 'increase it')
    out, source = Path(args.out), open_source(args.source)
    if results.is_film(out) and not source.video or results.is_picture(out) and source.count != 1:
        problem = 'not the name of a video' if source.video else f'one picture, for {source.count} images'
        raise UserError(f'--out {out}', problem, 'name a folder')
    if isinstance(source, Images) and source.count > 1 and source.any_below(out):
        raise UserError(
            f'--out {out}', 'holds images to predict on', 'name another folder, so that none is lost'
        )
    predictor = open_predictor(
        args.model, args.checkpoint, args.config, device, args.cfg_options, args.compile
    )
    painter = predictor.painter(args.score_thr)
    writers = open_writers(source, painter, out)

    console, counts, number = Console(stderr=True), Counter[str](), 0
    faults: list[UserError] = []
    start = time.perf_counter()
    found = predict_source(
        predictor, source, args.batch, args.score_thr, None if source.count == 1 or source.video else faults
    )
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        if source.live:  # Ctrl-C is how a camera ends.
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        for result in track(found, 'predicting', source.count, console=console, disable=source.count == 1):
            for writer in writers:
                writer.add(result, source.name(result.path))
            counts.update(result.found())
            number += 1
    seconds = time.perf_counter() - start
    where = ', '.join(str(writer.written) for writer in writers) or 'nothing written'
    if source.count == 1 and not source.video:
        print(f'{painter.summary(result.sample())}: {where}')
        return
    table = Table('class', 'objects' if predictor.task.name == 'det' else 'images')
    for name, count in counts.most_common():
        table.add_row(name, str(count))
    Console().print(table)
    images = 'frames' if source.video else 'images'
    print(f'{number} {images} in {seconds:.1f} s, {number / seconds:.1f} a second: {where}')
    if source.video and source.count and number < source.count:
        print(f'{args.source}: states {source.count} frames, of which {number} could be read.')
    if faults:
        raise UserError(f'{len(faults)} of {source.count} images could not be used, the first: {faults[0]}')


def open_writers(source: Images | Video, painter: Painter, out: Path) -> list[results.Writer]:
    """The writers that the options ask for."""
    folder = out.parent if results.is_film(out) or results.is_picture(out) else out
    writers: list[results.Writer] = []
    if not args.no_pictures:
        if isinstance(source, Video):
            writers.append(results.Film(painter, out, source.rate, source.live))
        else:
            writers.append(results.Pictures(painter, out))
    makers: dict[str, Callable[[Path], results.Writer]] = dict(
        json=results.CocoJson, csv=results.Table, masks=results.Masks
    )
    names = dict(json='predictions.json', csv='predictions.csv', masks='masks')
    return writers + [makers[kind](folder / names[kind]) for kind in dict.fromkeys(args.save)]


if __name__ == '__main__':
    cli.run(main)
