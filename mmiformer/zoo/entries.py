"""The configs of the zoo, each with its published figures and released weights."""

import re
from dataclasses import dataclass
from functools import cache

from mmiformer.apis.configs import FOLDERS, config_files
from mmiformer.checkpoints.released import RELEASED, Weights
from mmiformer.models.backbones import FAMILIES
from mmiformer.tasks import TASKS
from mmiformer.zoo.peers import PEERS
from mmiformer.zoo.published import DOWNSTREAM, DOWNSTREAM_SOURCE, published

# In the order of tables: frameworks by name in configs, those of the downstream table by title, networks by
# name in configs.
_FRAMEWORKS = dict(
    maskrcnn='Mask R-CNN',
    retinanet='RetinaNet',
    rtmdet='RTMDet',
    rtmdetins='RTMDet-Ins',
    fpn='Semantic FPN',
    upernet='UPerNet',
    segformer='SegFormer',
    lraspp='LR-ASPP',
    deeplabv3plus='DeepLabV3+',
)
DOWNSTREAM_FRAMEWORKS = ('Mask R-CNN', 'Semantic FPN')
_TITLES = {
    **{name: model.title for family in FAMILIES for name, model in family.models.items()},
    'mobilenetv3': 'MobileNetV3-L',
    **{peer.name: peer.title for peer in PEERS},
}
_DATASETS = dict(in1k='ImageNet-1k', coco='COCO', ade20k='ADE20K')
_NAME = re.compile(
    rf'(?:(?P<framework>{"|".join(_FRAMEWORKS)})_)?(?P<network>{"|".join(_TITLES)})(?P<distilled>_distill)?'
    rf'_(?P<dataset>{"|".join(_DATASETS)})'
)


@dataclass(frozen=True)
class Entry:
    """A config of the zoo.

    Attributes:
        name: Name of the config, without folder and suffix.
        task: Key of :data:`~mmiformer.tasks.TASKS`.
        network: Name of the backbone in configs.
        title: Name of the backbone in tables.
        framework: Detector or segmentor around the backbone; None for classifiers.
        dataset: Name of the data set.
        distilled: Whether a classifier is trained with a teacher.
        published: Published accuracies in percent, by metric.
        source: Source of these figures; None without any.
        weights: The released file of the model, if there is one.
    """

    name: str
    task: str
    network: str
    title: str
    framework: str | None
    dataset: str
    distilled: bool
    published: dict[str, float]
    source: str | None
    weights: Weights | None

    @property
    def family(self) -> str:
        """The backbone's family, a key of :data:`~mmiformer.zoo.published.PAPERS`."""
        return self.title.rpartition('-')[0]


@cache
def entries() -> tuple[Entry, ...]:
    """The zoo, classifiers first, our networks before others.

    Other configs in the same folders are left out: examples for own data, and heads or networks without a
    table.
    """
    found = [
        _entry(name, task, match)
        for task, folder in FOLDERS.items()
        for name, file in config_files().items()
        if file.parent.name == folder and (match := _NAME.fullmatch(name))
    ]
    frameworks, networks = [None, *_FRAMEWORKS.values()], list(_TITLES)
    return tuple(
        sorted(found, key=lambda e: (frameworks.index(e.framework), networks.index(e.network), e.distilled))
    )


def _entry(name: str, task: str, match: re.Match[str]) -> Entry:
    network, distilled = match['network'], bool(match['distilled'])
    title, framework = _TITLES[network], _FRAMEWORKS.get(match['framework'])
    figures: dict[str, float] = {}
    source = None
    if framework is None:
        row = published(network, distilled=distilled)
        if row and row.value:
            figures, source = dict(top1=row.value), row.source
    elif framework in DOWNSTREAM_FRAMEWORKS:
        rows = (row.figures(TASKS[task].metrics) for row in DOWNSTREAM if row.title == title)
        figures = next(rows, {})
        source = DOWNSTREAM_SOURCE if figures else None
    dataset = _DATASETS[match['dataset']]
    weights = RELEASED.get(name)
    return Entry(name, task, network, title, framework, dataset, distilled, figures, source, weights)
