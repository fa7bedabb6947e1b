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
add('--model', help='config to inherit from, e.g. rtmdet_iformer_m_coco (default: one with iFormer-T)')
add('--out', help='config to write (default: DATA.py in this folder, in lower case)')
add('--classes', nargs='+', default=[], help='names of the classes, where the labels are numbers')
add('--group', metavar='REGEX', help=r"keeps images together where it finds the same, e.g. '(\w+)_\d+\.'")
add('--seed', type=int, default=0, help='of the validation split, where there is none (default: 0)')
add('--scratch', action='store_true', help='without ImageNet weights, which need a download')
add('--train', action='store_true', help='train with the config')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

import re
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config

from mmiformer.apis import cli
from mmiformer.datasets.own import read_own_data, write_config
from mmiformer.tasks import task_of
from mmiformer.utils.errors import UserError

DEFAULTS = dict(
    det='rtmdet_iformer_t_coco',
    ins='rtmdetins_iformer_t_coco',
    seg='lraspp_iformer_t_ade20k',
    cls='iformer_t_in1k',
)


def main() -> None:
    """Reads the data, prints what was found, and writes the config."""
    root = Path(args.data).resolve()
    out = Path(args.out or re.sub(r'\W+', '_', root.name.lower()) + '.py')
    if out.suffix != '.py' or not out.parent.is_dir():
        raise UserError(out, 'expected a name that ends in .py, in an existing folder', 'change --out')
    labels = out.with_name(f'{out.stem}_labels')
    for path in (out, labels):
        if path.exists():
            raise UserError(path, 'exists already', f'remove {out.name} and {labels.name}, or change --out')
    data = read_own_data(root, args.task, args.classes, args.group, args.seed)
    data.print()
    write_config(data, base_of(data.task), out, labels, args.scratch)
    print(f'config   {out}')
    print(f'train    {cli.command("train", out)}')
    print(f'predict  {cli.command("predict", "IMAGE", f"work_dirs/{out.stem}")}', flush=True)
    if args.train:
        sys.exit(subprocess.call([sys.executable, Path(__file__).with_name('train.py'), out]))


def base_of(task: str) -> Config:
    """The config to inherit from."""
    name = args.model or DEFAULTS[task]
    cfg, subject = cli.load_config(name), f'--model {name}'
    if 'teacher' in cfg.model:
        raise UserError(subject, 'has a teacher with the classes of ImageNet', 'name one without _distill')
    kind = task_of(cfg, subject).name
    if kind == 'det' and 'segm' in cfg.val_evaluator.metric:
        kind = 'ins'
    if kind != task:
        raise UserError(subject, f'is for {kind}, but the labels are for {task}', 'name another, or --task')
    return cfg


if __name__ == '__main__':
    cli.run(main)
