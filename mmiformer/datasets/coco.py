"""COCO annotations that are checked when they are read. Needs mmdet."""

import io
import logging
from contextlib import redirect_stdout
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.logging import print_log

from mmiformer.datasets.annotations import check_coco, read_coco
from mmiformer.utils.errors import UserError, first_few

RUN_LENGTHS = 'boxes whose masks are run lengths (LoadAnnotations(poly2mask=False) reads polygons)'


class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset`` with checks; skipped boxes are logged.

    mmdet's own silently drops a class that the file lacks, which shifts all labels after it, and skips boxes
    without area. For what pycocotools does not check, see :mod:`mmiformer.datasets.annotations`.

    Raises:
        UserError: If the classes of the config are not categories of the file, in the same order; if an
            image or annotation is broken, see :func:`mmiformer.datasets.annotations.check_coco`; if no image
            has a box to train on.
    """

    def filter_data(self) -> list[dict]:
        """Drops images without boxes as ``filter_cfg`` says."""
        kept = super().filter_data()
        if not kept and self.data_list:
            problem = (
                f'none of its {len(self.data_list)} images has a box of {", ".join(self.metainfo["classes"])}'
            )
            raise UserError(self.ann_file, problem, 'annotate some, or correct metainfo.classes')
        return kept

    def COCOAPI(self, file: str) -> COCO:
        """Reads the annotation file for mmdet, and warns of skipped boxes."""
        content = read_coco(file)
        loads = [step for step in self.pipeline.transforms if getattr(step, 'with_mask', False)]
        skipped = check_coco(self.ann_file, content, bool(loads), evaluated=self.test_mode)
        if not all(getattr(load, 'poly2mask', True) for load in loads):
            names = {image['id']: image['file_name'] for image in content['images']}
            skipped[RUN_LENGTHS] = [
                names[annotation['image_id']]
                for annotation in content['annotations']
                if isinstance(annotation['segmentation'], dict) and not annotation.get('iscrowd')
            ]
        for what, images in skipped.items():
            warn_of_skipped(self.ann_file, images, what)
        known = [category['name'] for category in content['categories']]
        wanted = list(self.metainfo['classes'])
        if [name for name in known if name in wanted] != wanted:
            problem = f"its categories {', '.join(known)} are not the dataset's classes {', '.join(wanted)}"
            remedy = 'set metainfo=dict(classes=...) to some of them in the order of the file, each once'
            raise UserError(self.ann_file, problem, f"{remedy}, and the heads' num_classes to their number")
        coco = COCO()
        coco.dataset = content
        with redirect_stdout(io.StringIO()):  # It tells that it begins and that it is done.
            coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco


class SeenCocoMetric(CocoMetric):
    """mmdet's ``CocoMetric`` over the images that were predicted.

    mmdet's own counts every other image of the annotation file as one without detections.
    """

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Computes the metrics from pairs of truth and prediction."""
        self.img_ids = [prediction['img_id'] for _, prediction in results]
        return super().compute_metrics(results)


def warn_of_skipped(ann_file: str, files: list[str], what: str) -> None:
    """Logs how many boxes are skipped, if any, with the first of their files."""
    if files:
        message = f'{ann_file}: {len(files)} {what} are skipped, in {first_few(set(files))}.'
        print_log(message, logger='current', level=logging.WARNING)
