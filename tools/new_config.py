"""Writes a config for your own data: ``python tools/new_config.py DATA``."""

from arguments import ArgumentParser

parser = ArgumentParser(
    description='Recognise and check images and labels in a folder, and write a config that trains on them: '
    'COCO json, YOLO txt, Pascal VOC, instance masks, label or colour masks, class folders.'
)
add = parser.add_argument
add('data', help='the folder')
add(
    '--task',
    choices=['det', 'ins', 'seg', 'cls'],
    help='boxes, instance masks, segmentation or classes (default: what the labels are for)',
)
add('--model', help='config to inherit from, e.g. rtmdet_iformer_m (default: one with iFormer-T)')
add('--out', help='config to write (default: DATA.py in this folder, in lower case)')
add('--classes', nargs='+', default=[], help='names of the classes, where the labels are numbers')
add('--seed', type=int, default=0, help='of the validation split, where there is none (default: 0)')
add('--train', action='store_true', help='train with the config')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.table import Column, Table

from mmiformer.apis import cli
from mmiformer.apis.configs import config_files
from mmiformer.datasets.own import SPLITS, OwnData, read_own_data, summary, write_config
from mmiformer.tasks import task_of
from mmiformer.utils.errors import UserError

DEFAULTS = dict(
    det='rtmdet_iformer_t_coco',
    ins='rtmdetins_iformer_t_coco',
    seg='lraspp_iformer_t_ade20k',
    cls='iformer_t_in1k',
)


def main() -> None:
    """Reads the data, writes the config, and prints what was found."""
    root = Path(args.data).resolve()
    out = Path(args.out or re.sub(r'\W+', '_', root.name.lower()) + '.py')
    if out.exists():
        raise UserError(out, 'exists already', 'remove it, or name another --out')
    if out.suffix != '.py' or not out.parent.is_dir():
        raise UserError(out, 'expected a name that ends in .py, in an existing folder', 'change --out')
    data = read_own_data(root, args.task, args.classes, args.seed)
    Console().print(table_of(data))
    for note in data.folder.notes():
        print(f'note: {note}')
    write_config(data, base_of(data.task), out)
    tools = Path(__file__).parent
    print(f'{root}: {summary(data)}')
    print(f'config   {out}')
    print(f'train    python {tools}/train.py {out}')
    print(f'predict  python {tools}/predict.py IMAGE work_dirs/{out.stem}', flush=True)
    if args.train:
        sys.exit(subprocess.call([sys.executable, str(tools / 'train.py'), str(out)]))


def base_of(task: str) -> Config:
    """The config to inherit from."""
    names = config_files()
    wanted = args.model or DEFAULTS[task]
    name = next(
        (n for n in (wanted, *(f'{wanted}_{s}' for s in ('coco', 'ade20k', 'in1k'))) if n in names), wanted
    )
    cfg = cli.load_config(name)
    if 'teacher' in cfg.model:
        raise UserError(
            f'--model {name}', 'has a teacher with the classes of ImageNet', 'name one without _distill'
        )
    kind = task_of(cfg, name).name
    if kind == 'det' and (
        'mask_head' in cfg.model.get('roi_head', {})
        or 'Ins' in cfg.model.get('bbox_head', {}).get('type', '')
    ):
        kind = 'ins'
    if kind != task:
        raise UserError(
            f'--model {name}', f'is for {kind}, but the labels are for {task}', 'name another, or --task'
        )
    return cfg


def table_of(data: OwnData) -> Table:
    """Images, and objects or images of each class, by split."""
    splits = [split for split in SPLITS if data.of(split)]
    table = Table('', *(Column(split, justify='right') for split in splits))
    table.add_row('images', *(f'{len(data.of(split)):,}' for split in splits))
    if data.task == 'seg':
        return table
    counts: Counter[tuple[str | None, str]] = Counter()
    for sample in data.samples:
        labels = [sample.label] if data.task == 'cls' else [name for name, _ in sample.label]
        counts.update((sample.split, label) for label in labels)
    for name in data.classes:
        table.add_row(name, *(f'{counts[split, name]:,}' for split in splits))
    return table


if __name__ == '__main__':
    cli.run(main)
