"""Published figures, as data."""

from mmiformer.tasks import METRICS, Metric
from mmiformer.zoo.published.downstream import DOWNSTREAM
from mmiformer.zoo.published.imagenet import GAINS, IMAGENET
from mmiformer.zoo.published.records import PAPERS, Gain, Paper, Published


def published(network: str, metric: str = 'top1', distilled: bool = False) -> Published | None:
    """What is published of a network, ``timm/`` before its name or not; None where nothing is.

    timm's names of weights, as in ``repvit_m1_0.dist_450e_in1k``, are no names of networks: a figure of other
    weights would be wrong.

    Args:
        network: Its name, ours or timm's.
        metric: A key of :data:`METRICS`. Defaults to ``'top1'``.
        distilled: Whether of weights that were trained with a teacher. Downstream results are not told
            apart by that. Defaults to False.
    """
    name = network.removeprefix('timm/')
    rows = list(IMAGENET)
    if metric != 'top1':
        rows = [row.accuracy(metric) for row in DOWNSTREAM]
    return next((row for row in rows if name in (row.name, row.alias) and row.distilled is distilled), None)


__all__ = [
    'DOWNSTREAM',
    'GAINS',
    'IMAGENET',
    'METRICS',
    'PAPERS',
    'Gain',
    'Metric',
    'Paper',
    'Published',
    'published',
]
