"""Generates metafiles and tables from the published figures and the zoo: no figure is typed twice."""

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import yaml

from mmiformer.apis.cli import load_config
from mmiformer.apis.configs import FOLDERS, config_file
from mmiformer.apis.inference import bare_model
from mmiformer.benchmark.cost import count_macs
from mmiformer.benchmark.networks import Network
from mmiformer.tasks import METRICS, TASKS
from mmiformer.zoo import peers
from mmiformer.zoo.entries import DOWNSTREAM_FRAMEWORKS, Entry, entries
from mmiformer.zoo.markdown import markdown_table
from mmiformer.zoo.published import DOWNSTREAM, IMAGENET, PAPERS, REFERENCES, published

BLOCK = re.compile(r'(<!-- table: (\w+), made by tools/generate\.py -->\n).*?(<!-- end of table -->\n)', re.S)


def generate(root: Path) -> dict[Path, str]:
    """All generated files of a checkout with their texts: configs of peers, metafiles, pages with tables.

    Args:
        root: The checkout.
    """
    files = {root / 'configs' / path: text for path, text in peers.configs().items()}
    metafiles = {task: f'configs/{folder}/metafile.yml' for task, folder in FOLDERS.items()}
    files |= {root / path: _yaml(_metafile(task)) for task, path in metafiles.items()}
    files[root / 'model-index.yml'] = _yaml(dict(Import=list(metafiles.values())))
    for page in (root / 'README.md', *sorted((root / 'docs').glob('*.md'))):
        text = page.read_text(encoding='utf-8')
        if BLOCK.search(text):
            up = '' if page.parent == root else '../'
            files[page] = BLOCK.sub(partial(_filled, up=up), text)
    return files


def _filled(block: re.Match[str], up: str) -> str:
    table = markdown_table(list(_TABLES[block[2]]())).replace('](configs/', f']({up}configs/')
    notes = ''.join(f'\n{note}\n' for note in _NOTES.get(block[2], ()))
    return f'{block[1]}\n{table}{notes}\n{block[3]}'


def _yaml(content: dict[str, Any]) -> str:
    return '# Made by tools/generate.py.\n' + yaml.safe_dump(content, sort_keys=False, width=110)


def _metafile(task: str) -> dict[str, Any]:
    models = [entry for entry in entries() if entry.task == task]
    collections = []
    for family in dict.fromkeys(model.family for model in models):
        title, arxiv = PAPERS[family]
        collections.append(dict(Name=family, Paper=dict(Title=title, URL=f'https://arxiv.org/abs/{arxiv}')))
    return dict(Collections=collections, Models=[_model(entry) for entry in models])


def _model(entry: Entry) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        'Training Data': entry.dataset,
        'Architecture': [entry.framework or 'Classifier', entry.title],
    }
    if entry.framework is None:
        parameters, macs = _cost(entry.network)
        metadata.update(Parameters=parameters, FLOPs=macs)  # OpenMMLab's FLOPs are multiply-adds.
    if entry.source:
        metadata['Results From'] = entry.source
    model: dict[str, Any] = {
        'Name': entry.name,
        'In Collection': entry.family,
        'Config': _config(entry),
        'Metadata': metadata,
    }
    results = []
    for name, figure in entry.published.items():
        metric = METRICS[name]
        if metric.metafile_task:
            figures = {metric.metafile_name or metric.title: figure}
            results.append(dict(Task=metric.metafile_task, Dataset=entry.dataset, Metrics=figures))
    if results:
        model['Results'] = results
    if entry.weights:
        model['Weights'] = entry.weights.url
    return model


@cache
def _cost(network: str) -> tuple[int, int]:
    """Parameters, and multiply-adds at 224x224, of one of our classifiers with one head."""
    with torch.device('meta'):
        model = Network(network).assemble()
    return sum(p.numel() for p in model.parameters()), count_macs(model)


def _config(entry: Entry) -> str:
    return f'configs/{FOLDERS[entry.task]}/{entry.name}.py'


def _link(entry: Entry, text: str) -> str:
    return f'[{text}]({_config(entry)})'


def _figures(entry: Entry | None, *metrics: str) -> str | None:
    figures = entry.published if entry else {}
    return ' / '.join(f'{figures[metric]:.1f}' for metric in metrics if metric in figures) or None


# The tables yield rows as dicts with the column heads as keys.
def _models() -> Iterator[dict[str, Any]]:
    """Our networks: their costs, published accuracies and configs."""
    by_name = {entry.name: entry for entry in entries()}
    for network in dict.fromkeys(entry.network for entry in entries() if entry.framework is None):
        own = [entry for entry in entries() if entry.network == network]
        parameters, macs = _cost(network)
        plain = _figures(by_name.get(f'{network}_in1k'), 'top1')
        distilled = _figures(by_name.get(f'{network}_distill_in1k'), 'top1')
        links = [_link(e, 'distilled' if e.distilled else e.framework or 'ImageNet') for e in own]
        yield {
            'network': own[0].title,
            'parameters': f'{parameters / 1e6:.2f} M',
            'multiply-adds at 224': f'{macs / 1e9:.2f} G',
            'ImageNet top-1 (distilled)': f'{plain or "-"} ({distilled})' if distilled else plain,
            'COCO, AP box / mask': _figures(by_name.get(f'maskrcnn_{network}_coco'), 'box_ap', 'mask_ap'),
            'ADE20K, mIoU': _figures(by_name.get(f'fpn_{network}_ade20k'), 'miou'),
            'configs': ', '.join(links),
        }


def _imagenet() -> Iterator[dict[str, Any]]:
    """Classifiers with their published accuracies."""
    for entry in entries():
        if entry.framework is None:
            row = published(entry.network, distilled=entry.distilled)
            yield {
                'config': _link(entry, entry.name),
                'epochs': row and row.epochs,
                'top-1': _figures(entry, 'top1') or '**not published**',
                "in the authors' log": row and row.logged and f'{row.logged:.3f}',
                'released file': entry.weights and f'[{entry.weights.file}]({entry.weights.url})',
                'source': entry.source,
            }


def _downstream() -> Iterator[dict[str, Any]]:
    """The published table of detection and segmentation, with our configs."""
    for row in DOWNSTREAM:
        links = [
            _link(entry, entry.framework)
            for entry in entries()
            if entry.title == row.title and entry.framework in DOWNSTREAM_FRAMEWORKS
        ]
        yield {
            'backbone': row.title + (f' ({row.epochs} epochs)' if row.epochs else ''),
            'params M': row.parameters,
            'ms at 512 (iPhone 13)': row.latency or 'failed',
            'AP box / 50 / 75': ' / '.join(map(str, row.box)),
            'AP mask / 50 / 75': ' / '.join(map(str, row.mask)),
            'mIoU': row.miou,
            'configs': ', '.join(links) or 'in no library here',
        }


def _light(task: str, side: int) -> Iterator[dict[str, Any]]:
    """Whole models with light heads: their costs, and the published figures of others with the same heads."""
    frameworks = {framework for _, framework, _ in REFERENCES} | {'LR-ASPP', 'DeepLabV3+'}
    for entry in entries():
        if entry.task == task and entry.framework in frameworks:
            cfg = load_config(str(config_file(entry.name)))
            with torch.device('meta'):
                model = bare_model(cfg)
            macs = count_macs(model, side, side)
            rest = 1 - count_macs(model.backbone, side, side) / macs
            row = {
                'config': _link(entry, f'`{entry.name}`'),
                'parameters': f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M',
                f'multiply-adds at {side}': f'{macs / 1e9:.2f} G',
                'in neck and head': f'{rest:.0%}',
                'published': '**not published**',
            }
            yield row
    for title, _, figures in REFERENCES:
        if set(figures) <= set(TASKS[task].metrics):
            values = ', '.join(f'{value:.1f} {METRICS[metric].title}' for metric, value in figures.items())
            yield {**dict.fromkeys(row), 'config': title, 'published': values}


def _mocovit() -> Iterator[dict[str, Any]]:
    """What is published about MoCoViT and GhostNet."""
    for row in IMAGENET:
        if row.family in ('MoCoViT', 'GhostNet'):
            yield {
                'network': row.name,
                'parameters': f'{row.parameters} M',
                'multiply-adds': f'{row.multiply_adds} M',
                'ImageNet top-1': f'{row.value} %',
                'gains': row.gains,
                'source': row.source,
            }


def _retinanet() -> Iterator[dict[str, Any]]:
    """ImageNet accuracy of the initial weights of the RetinaNet configs."""
    by_name = {entry.name: entry for entry in entries()}
    for config, network, distilled, weights in (
        ('mocovit', 'mocovit', False, 'yours, of `mocovit_in1k.py` (none were released; not reproduced yet)'),
        ('ghostnet', 'ghostnet', False, "timm's `ghostnet_100.in1k`"),
        ('mobilenetv3', 'mobilenetv3_large_100', False, "timm's `mobilenetv3_large_100.ra_in1k`"),
        ('iformer_t', 'iformer_t', False, "the authors'"),
        ('iformer_s', 'iformer_s', False, "the authors'"),
        ('iformer_m', 'iformer_m', True, "the authors', distilled, as in their detector"),
    ):
        row = published(network, distilled=distilled)
        yield {
            'config': _link(by_name[f'retinanet_{config}_coco'], f'`{config}`'),
            'weights': weights,
            'their ImageNet top-1': row and f'{row.value:.1f} %',
        }


def _metrics() -> Iterator[dict[str, Any]]:
    """The compared metrics and their tolerances."""
    for metric in METRICS.values():
        yield {
            'metric': metric.title,
            'of': f'{metric.model}, {metric.dataset}',
            'tolerance of a released file': f'{metric.tolerance:.1f}',
            'tolerance of a run of your own': f'{metric.run_tolerance:.1f}',
        }


_TABLES: dict[str, Callable[[], Iterator[dict[str, Any]]]] = dict(
    models=_models,
    imagenet=_imagenet,
    downstream=_downstream,
    light_detection=partial(_light, 'det', 640),
    light_segmentation=partial(_light, 'seg', 512),
    mocovit=_mocovit,
    retinanet=_retinanet,
    metrics=_metrics,
)
_NOTES = dict(
    downstream=[f'{row.title}: {row.doubt}.' for row in DOWNSTREAM if row.doubt],
    imagenet=[f'{row.name}: {row.doubt}.' for row in IMAGENET if row.doubt],
)
