"""What the zoo holds: its configs, each with what was published of it and the weights that were released."""

import re
from dataclasses import dataclass, field
from functools import cache

from mmiformer.apis.configs import FOLDERS, config_files
from mmiformer.checkpoints.released import RELEASED, Weights
from mmiformer.models.backbones import FAMILIES
from mmiformer.zoo.peers import PEERS
from mmiformer.zoo.published import DOWNSTREAM, IMAGENET, METRICS
from mmiformer.zoo.published.downstream import SOURCE

_FRAMEWORKS = dict(maskrcnn='Mask R-CNN', retinanet='RetinaNet', fpn='Semantic FPN', upernet='UPerNet')
# Those of the table of downstream tasks.
_PUBLISHED = ('maskrcnn', 'fpn')
_DATASETS = dict(in1k='ImageNet-1k', coco='COCO', ade20k='ADE20K')
_NAME = re.compile(
    rf'(?:(?P<framework>{"|".join(_FRAMEWORKS)})_)?(?P<network>.+?)(?P<distilled>_distill)?'
    rf'_(?P<dataset>{"|".join(_DATASETS)})'
)
# Of the networks by their names in configs, in the order of tables.
_TITLES = {
    **{name: model.title for family in FAMILIES for name, model in family.models.items()},
    'mobilenetv3': 'MobileNetV3-L',
    **{peer.name: peer.title for peer in PEERS},
}


@dataclass(frozen=True)
class Entry:
    """A config of the zoo.

    Attributes:
        name: Of the config, without folder and suffix.
        task: Name of the task.
        network: Name of the backbone in the names of configs.
        title: Of the backbone, for people.
        framework: What is around the backbone; None for classifiers.
        dataset: What it is trained and tested on.
        distilled: Whether a classifier was trained with a teacher.
        published: Percent by metric; empty where nothing was published.
        source: Of these figures; None where there are none.
        weights: The released file of the whole model, if there is one.
    """

    name: str
    task: str
    network: str
    title: str
    framework: str | None
    dataset: str
    distilled: bool = False
    published: dict[str, float] = field(default_factory=dict)
    source: str | None = None
    weights: Weights | None = None

    @property
    def peer(self) -> bool:
        """Whether the published figures are of another recipe than the config's, which is iFormer's."""
        return self.network in {peer.name for peer in PEERS}

    @property
    def family(self) -> str:
        """What the backbone is a size of."""
        return self.title.rpartition('-')[0]


@cache
def entries() -> tuple[Entry, ...]:
    """The zoo, classifiers first, our networks before others.

    Other configs in the same folders are none of it: examples for data of one's own, heads or networks that
    no table has.
    """
    found = [
        _entry(name, task, match)
        for task, folder in FOLDERS.items()
        for name, file in config_files().items()
        if file.parent.name == folder and (match := _NAME.fullmatch(name)) and match['network'] in _TITLES
    ]
    return tuple(sorted(found, key=_order))


def _order(entry: Entry) -> tuple[int, int, bool]:
    frameworks = (None, *_FRAMEWORKS.values())
    return frameworks.index(entry.framework), list(_TITLES).index(entry.network), entry.distilled


def _entry(name: str, task: str, match: re.Match[str]) -> Entry:
    network, framework, distilled = match['network'], match['framework'], bool(match['distilled'])
    title = _TITLES[network]
    figures: dict[str, float | None] = {}
    source = None
    if task == 'cls':
        for row in IMAGENET:
            if (row.name, row.distilled) == (network, distilled):
                figures, source = dict(top1=row.value), row.source
    elif framework in _PUBLISHED:
        table = {row.title: row.figures() for row in DOWNSTREAM}
        own = (name for name, metric in METRICS.items() if metric.task == task)
        figures = {metric: table.get(title, {}).get(metric) for metric in own}
        source = SOURCE
    published = {metric: value for metric, value in figures.items() if value is not None}
    return Entry(
        name=name,
        task=task,
        network=network,
        title=title,
        framework=framework and _FRAMEWORKS[framework],
        dataset=_DATASETS[match['dataset']],
        distilled=distilled,
        published=published,
        source=source if published else None,
        weights=RELEASED.get(name),
    )
