"""COCO annotations that are checked while they are read. Needs mmdet."""

import logging
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmengine.logging import print_log

from mmiformer.errors import UserError

EMPTY = 'boxes without area (below 1 pixel, or outside of the image)'


class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset`` that tells what it cannot use.

    mmdet's own drops a class that the file lacks, which shifts every label after it, and skips boxes
    without area, all silently. Configs name this class by its import path, so that importing mmiformer
    does not need mmdet.

    Raises:
        UserError: If a class of the config is not in the file, or the file names them in another order.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the annotation file; warns once, with a name, about boxes without area."""
        self._empty_boxes: list[str] = []
        self._unknown: list[str] = []
        self._checked_classes = False
        data_list = super().load_data_list()
        warn_of_skipped(self.ann_file, self._empty_boxes, EMPTY)
        warn_of_skipped(self.ann_file, self._unknown, 'boxes of a category that the file does not declare')
        return data_list

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """Parses the annotations of one image as mmdet does, noting those that mmdet will skip."""
        if not self._checked_classes:
            self._check_classes()
        image = raw_data_info['raw_img_info']
        for ann in raw_data_info['raw_ann_info']:
            if ann['category_id'] not in self.coco.cats:
                self._unknown.append(image['file_name'])
                continue
            x, y, w, h = ann['bbox']
            inside_w = min(x + w, image['width']) - max(x, 0)
            inside_h = min(y + h, image['height']) - max(y, 0)
            if w < 1 or h < 1 or ann['area'] <= 0 or inside_w <= 0 or inside_h <= 0:
                self._empty_boxes.append(image['file_name'])
        return super().parse_data_info(raw_data_info)

    def _check_classes(self) -> None:
        self._checked_classes = True
        wanted = list(self.metainfo['classes'])
        found = [self.coco.cats[i]['name'] for i in self.cat_ids]
        absent = [name for name in wanted if name not in found]
        if absent:
            known = ', '.join(c['name'] for c in self.coco.cats.values())
            raise UserError(
                f"{self.ann_file}: has no category '{absent[0]}'"
                f'{f" (and {len(absent) - 1} more of the classes)" if absent[1:] else ""}; it has {known}; '
                "set the datasets' metainfo=dict(classes=...) and the heads' num_classes to those you want."
            )
        if found != wanted:
            raise UserError(
                f"{self.ann_file}: declares its categories in the order {', '.join(found)}; the dataset's "
                'metainfo classes must stand in the same order, or labels would be mixed up.'
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
    """Logs how many boxes are skipped, and where.

    Args:
        ann_file: The annotation file.
        files: The image or annotation of each of them; none is not worth a word.
        what: What they are.
        named: How many files to name at most. Defaults to 5.
    """
    if files:
        names = list(dict.fromkeys(files))
        print_log(
            f'{ann_file}: {len(files)} {what} are skipped, in {", ".join(names[:named])}'
            f'{" ..." if names[named:] else ""}.',
            logger='current',
            level=logging.WARNING,
        )
