"""The files that are made from the published figures and the zoo, so that no figure is typed twice."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from mmiformer.apis.configs import FOLDERS
from mmiformer.benchmark.cost import count_macs
from mmiformer.benchmark.networks import Network
from mmiformer.utils.errors import UserError
from mmiformer.zoo import peers
from mmiformer.zoo.effort import WholeModel
from mmiformer.zoo.entries import Entry, entries
from mmiformer.zoo.markdown import markdown_table
from mmiformer.zoo.published import DOWNSTREAM, GAINS, IMAGENET, METRICS, PAPERS, published

# How OpenMMLab's metafiles call what the metrics are of: task, data set, figure.
_RESULTS = dict(
    top1=('Image Classification', 'ImageNet-1k', 'Top 1 Accuracy'),
    box_ap=('Object Detection', 'COCO', 'box AP'),
    mask_ap=('Instance Segmentation', 'COCO', 'mask AP'),
    miou=('Semantic Segmentation', 'ADE20K', 'mIoU'),
)
_HEADER = '# Made by tools/generate.py.\n'
BLOCK = re.compile(r'(<!-- table: (\w+), made by tools/generate\.py -->\n).*?(<!-- end of table -->\n)', re.S)


def generate(root: Path) -> dict[Path, str]:
    """All files of a checkout that are made, with their texts.

    Args:
        root: The checkout.

    Raises:
        UserError: If a page has a table that nothing makes.
    """
    files = {root / 'configs' / path: text for path, text in peers.configs().items()}
    for task, folder in FOLDERS.items():
        files[root / 'configs' / folder / 'metafile.yml'] = _HEADER + metafile(task)
    imports = dict(Import=[f'configs/{folder}/metafile.yml' for folder in FOLDERS.values()])
    files[root / 'model-index.yml'] = _HEADER + _dump(imports)
    for page in (root / 'README.md', *sorted((root / 'docs').glob('*.md'))):
        text = page.read_text(encoding='utf-8')
        if BLOCK.search(text):
            files[page] = fill(text, page)
    return files


def fill(text: str, page: Path) -> str:
    """A page with its tables as they are now.

    Args:
        text: The page.
        page: Its path, for links and messages.

    Raises:
        UserError: If it has a table that nothing makes.
    """

    def make(block: re.Match[str]) -> str:
        if block[2] not in _TABLES:
            raise UserError(
                page, f"its table '{block[2]}' is none of {', '.join(_TABLES)}", 'correct the name'
            )
        # Links are from the page's own folder.
        up = '' if page.name == 'README.md' else '../'
        return f'{block[1]}\n{_TABLES[block[2]](up)}\n{block[3]}'

    return BLOCK.sub(make, text)


def metafile(task: str) -> str:
    """The metafile of a folder of configs, as ``mim`` and ``model-index`` read it.

    Args:
        task: Name of the task.
    """
    models = [entry for entry in entries() if entry.task == task]
    papers = {family: PAPERS[family] for family in dict.fromkeys(model.family for model in models)}
    return _dump(
        dict(
            Collections=[
                dict(Name=family, Paper=dict(Title=paper.title, URL=paper.url))
                for family, paper in papers.items()
            ],
            Models=[_model(entry) for entry in models],
        )
    )


def _model(entry: Entry) -> dict[str, Any]:
    figures = [
        dict(Task=task, Dataset=dataset, Metrics={name: entry.published[metric]})
        for metric, (task, dataset, name) in _RESULTS.items()
        if metric in entry.published
    ]
    metadata: dict[str, Any] = {
        'Training Data': entry.dataset,
        'Architecture': [entry.framework or 'Classifier', entry.title],
    }
    if entry.task == 'cls':
        parameters, macs = _cost(entry.network)
        metadata.update(Parameters=parameters, FLOPs=macs)  # By OpenMMLab's custom, multiply-adds.
    if entry.source:
        metadata['Results From'] = entry.source
    model: dict[str, Any] = {
        'Name': entry.name,
        'In Collection': entry.family,
        'Config': f'configs/{FOLDERS[entry.task]}/{entry.name}.py',
        'Metadata': metadata,
    }
    if figures:
        model['Results'] = figures
    if entry.weights:
        model['Weights'] = entry.weights.url
    return model


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=110)


def _link(entry: Entry, text: str, up: str) -> str:
    return f'[{text}]({up}configs/{FOLDERS[entry.task]}/{entry.name}.py)'


def _figures(entry: Entry | None, *metrics: str) -> str | None:
    values = [entry.published[metric] for metric in metrics if entry and metric in entry.published]
    return ' / '.join(f'{value:.1f}' for value in values) or None


@cache
def _cost(network: str) -> tuple[int, int]:
    """Parameters, and multiply-adds at 224x224, of a classifier of ours with one head."""
    with torch.device('meta'):
        model = Network(network).assemble()
    return sum(p.numel() for p in model.parameters()), count_macs(WholeModel(model))


def _models(up: str) -> str:
    """Our networks: what they cost, what is published of them, and their configs."""
    by_name = {entry.name: entry for entry in entries()}
    rows = []
    for network in dict.fromkeys(entry.network for entry in by_name.values() if entry.task == 'cls'):
        parameters, macs = _cost(network)
        own = [entry for entry in by_name.values() if entry.network == network]
        plain, taught = (_figures(by_name.get(f'{network}{kind}_in1k'), 'top1') for kind in ('', '_distill'))
        links = [
            _link(entry, 'distilled' if entry.distilled else entry.framework or 'ImageNet', up)
            for entry in own
        ]
        rows.append(
            [
                own[0].title,
                f'{parameters / 1e6:.2f} M',
                f'{macs / 1e9:.2f} G',
                f'{plain or "-"} ({taught})' if taught else plain,
                _figures(by_name.get(f'maskrcnn_{network}_coco'), 'box_ap', 'mask_ap'),
                _figures(by_name.get(f'fpn_{network}_ade20k'), 'miou'),
                ', '.join(links),
            ]
        )
    heads = (
        'network',
        'parameters',
        'multiply-adds at 224',
        'ImageNet top-1 (distilled)',
        'COCO, AP box / mask',
        'ADE20K, mIoU',
        'configs',
    )
    return markdown_table(heads, rows)


def _imagenet(up: str) -> str:
    """Classifiers with their published accuracy, as the papers have them."""
    rows = []
    for entry in (entry for entry in entries() if entry.task == 'cls'):
        row = published(entry.network, distilled=entry.distilled)
        rows.append(
            [
                _link(entry, entry.name, up),
                row and row.epochs,
                f'{row.value:.1f}' if row and row.value else '**not published**',
                row and row.logged and f'{row.logged:.3f}',
                entry.weights and f'[{entry.weights.file}]({entry.weights.url})',
                row and row.source,
            ]
        )
    heads = ('config', 'epochs', 'top-1', "in the authors' log", 'released file', 'source')
    return markdown_table(heads, rows)


def _downstream(up: str) -> str:
    """The published table of downstream tasks, with our configs."""
    by_title = {(entry.title, entry.framework): entry for entry in entries()}
    rows = []
    for row in DOWNSTREAM:
        det, seg = (by_title.get((row.title, name)) for name in ('Mask R-CNN', 'Semantic FPN'))
        rows.append(
            [
                row.title + (f' ({row.epochs} epochs)' if row.epochs else ''),
                row.parameters,
                'failed' if row.latency is None else row.latency,
                ' / '.join(map(str, row.box)),
                ' / '.join(map(str, row.mask)),
                row.miou,
                ', '.join(_link(e, e.framework or '', up) for e in (det, seg) if e) or 'in no library here',
            ]
        )
    heads = (
        'backbone',
        'params M',
        'ms at 512 (iPhone 13)',
        'AP box / 50 / 75',
        'AP mask / 50 / 75',
        'mIoU',
        'configs',
    )
    doubts = ''.join(f'\n{row.title}: {row.doubt}.\n' for row in DOWNSTREAM if row.doubt)
    return markdown_table(heads, rows) + doubts


def _mocovit(up: str) -> str:
    """What is published of MoCoViT, and of GhostNet, which it is compared with."""
    rows = [
        [
            row.name,
            f'{row.parameters} M',
            f'{row.multiply_adds} M',
            f'{row.value} %',
            ', '.join(f'+{g.value} {g.metric}, over {g.over}' for g in GAINS if g.name == row.name) or None,
            row.source,
        ]
        for row in IMAGENET
        if row.family in ('MoCoViT', 'GhostNet')
    ]
    heads = ('network', 'parameters', 'multiply-adds', 'ImageNet top-1', 'gains', 'source')
    return markdown_table(heads, rows)


def _retinanet(up: str) -> str:
    """ImageNet accuracy of the weights that the RetinaNet configs start from."""
    starts = (
        ('mocovit', 'mocovit', False, 'yours, of `mocovit_in1k.py` (none were released; not reproduced yet)'),
        ('ghostnet', 'ghostnet', False, "timm's `ghostnet_100.in1k`"),
        ('mobilenetv3', 'mobilenetv3_large_100', False, "timm's `mobilenetv3_large_100.ra_in1k`"),
        ('iformer_t', 'iformer_t', False, "the authors'"),
        ('iformer_s', 'iformer_s', False, "the authors'"),
        ('iformer_m', 'iformer_m', True, "the authors', distilled, as in their detector"),
    )
    by_name = {entry.name: entry for entry in entries()}
    rows = []
    for config, network, distilled, weights in starts:
        row = published(network, distilled=distilled)
        assert row is not None
        rows.append(
            [_link(by_name[f'retinanet_{config}_coco'], f'`{config}`', up), weights, f'{row.value:.1f} %']
        )
    return markdown_table(('config', 'weights', 'their ImageNet top-1'), rows)


def _metrics(up: str) -> str:
    """What is compared, and how close it is to come."""
    return markdown_table(
        ('metric', 'of', 'tolerance of a released file', 'tolerance of a run of your own'),
        (
            (m.title, f'{m.model}, {m.dataset}', f'{m.tolerance:.1f}', f'{m.run_tolerance:.1f}')
            for m in METRICS.values()
        ),
    )


_TABLES: dict[str, Callable[[str], str]] = dict(
    models=_models,
    imagenet=_imagenet,
    downstream=_downstream,
    mocovit=_mocovit,
    retinanet=_retinanet,
    metrics=_metrics,
)
