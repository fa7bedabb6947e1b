"""COCO annotations that are checked while they are read. Needs mmdet."""

import logging
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.logging import print_log

from mmiformer.datasets.annotations import check_coco, read_coco
from mmiformer.utils.errors import UserError


class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset`` with checks; what is skipped is logged.

    mmdet's own silently drops a class that the file lacks, which shifts every label after it, and skips boxes
    without area; what else pycocotools does not check is in :mod:`mmiformer.datasets.annotations`. Configs
    name this class by its import path, so that importing mmiformer does not need mmdet.

    Raises:
        UserError: If a class of the config is not in the file, or the file names them in another order; if
            an image or annotation is broken, see :func:`mmiformer.datasets.annotations.check_coco`.
    """

    def COCOAPI(self, file: str) -> COCO:
        """What mmdet calls to read the annotation file; warns once, with names, of what is skipped."""
        content = read_coco(file)
        masks = any(getattr(step, 'with_mask', False) for step in self.pipeline.transforms)
        for what, names in check_coco(self.ann_file, content, masks, evaluated=self.test_mode).items():
            warn_of_skipped(self.ann_file, names, what)
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        self._check_classes(content['categories'])
        return coco

    def _check_classes(self, categories: list[dict[str, Any]]) -> None:
        wanted = list(self.metainfo['classes'])
        known = [category['name'] for category in categories]
        found = [name for name in known if name in wanted]
        absent = [name for name in wanted if name not in found]
        twice = [name for name in wanted if found.count(name) > 1]
        if absent:
            more = f' (and {len(absent) - 1} more of the classes)' if absent[1:] else ''
            raise UserError(
                self.ann_file,
                f"has no category '{absent[0]}'{more}; it has {', '.join(known)}",
                "set the datasets' metainfo=dict(classes=...) and the heads' num_classes to those you want",
            )
        if twice:
            raise UserError(
                self.ann_file,
                f"has several categories '{twice[0]}', of which mmdet would take each for a class",
                'give their annotations one category_id, and remove the others',
            )
        if found != wanted:
            raise UserError(
                self.ann_file,
                f'declares its categories in the order {", ".join(found)}',
                "the dataset's metainfo classes must stand in the same order, or labels would be mixed up",
            )


class SeenCocoMetric(CocoMetric):
    """mmdet's ``CocoMetric`` of the images that were predicted.

    mmdet's own counts every other image of the annotation file as one where nothing was found.
    """

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics of pairs of truth and prediction."""
        self.img_ids = [prediction['img_id'] for _, prediction in results]
        return super().compute_metrics(results)


def warn_of_skipped(ann_file: str, files: list[str], what: str, named: int = 5) -> None:
    """Logs how many boxes are skipped, if any; ``files`` are those of each of them, and a few are named."""
    if files:
        names = list(dict.fromkeys(files))
        where = ', '.join(names[:named]) + (' ...' if names[named:] else '')
        message = f'{ann_file}: {len(files)} {what} are skipped, in {where}.'
        print_log(message, logger='current', level=logging.WARNING)
