"""Pascal VOC annotations that are checked when they are read. Needs mmdet."""

import os
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, parse

from mmdet.datasets import XMLDataset

from mmiformer.datasets.annotations import NO_AREA
from mmiformer.datasets.coco import warn_of_skipped
from mmiformer.datasets.loading import BROKEN, open_image, shown_size
from mmiformer.utils.errors import UserError, first_line
from mmiformer.utils.files import check_regular


class CheckedXMLDataset(XMLDataset):
    """mmdet's ``XMLDataset`` with checks; skipped boxes are logged.

    mmdet's own keeps boxes without area in the image, which make losses infinite, and silently skips names
    that are not classes.

    Raises:
        UserError: If an XML file is missing or broken, or no object has a class of the config.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the list of images and their XML files."""
        self._empty_boxes: list[str] = []
        self._unknown: list[str] = []
        data_list = super().load_data_list()
        warn_of_skipped(self.ann_file, self._empty_boxes, NO_AREA)
        warn_of_skipped(self.ann_file, self._unknown, 'boxes whose name is not a class')
        if not any(data['instances'] for data in data_list):
            names = ', '.join(self.metainfo['classes'])
            problem = f'none of its {len(data_list)} images has a box of {names}'
            remedy = "set the dataset's metainfo=dict(classes=...) to the names in the XML files"
            raise UserError(self.ann_file, problem, remedy)
        return data_list

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any]:
        """Parses the XML of one image, without the boxes that are skipped."""
        path, image = img_info['xml_path'], os.path.join(self.sub_data_root, img_info['file_name'])
        check_regular(path)
        try:
            root = parse(path).getroot()
            # LoadCheckedImage compares them with the image. Some tools write zeros, or no size.
            width, height = (int(float(root.findtext(f'size/{side}') or 0)) for side in ('width', 'height'))
            if not width or not height:
                check_regular(image)
                with open_image(Path(image)) as opened:
                    width, height = shown_size(opened)
            instances = self._instances(root, os.path.basename(path), width, height)
        except (*BROKEN, LookupError, OverflowError) as error:  # At an unknown encoding, an infinite width.
            remedy = f'{self.ann_file} lists it, so correct it or remove it from the list'
            raise UserError(path, f'cannot be used ({first_line(error)})', remedy) from error
        return dict(img_info, img_path=image, width=width, height=height, instances=instances)

    def _instances(self, root: Element, file: str, width: int, height: int) -> list[dict[str, Any]]:
        instances = []
        for element in root.iterfind('object'):
            name = element.findtext('name', '').strip()
            # VOC counts pixels from 1.
            sides = ('xmin', 'ymin', 'xmax', 'ymax')
            x1, y1, x2, y2 = (float(element.findtext(f'bndbox/{side}', '')) - 1 for side in sides)
            visible = min(x2, width) - max(x1, 0), min(y2, height) - max(y1, 0)
            if name not in self.cat2label:
                self._unknown.append(file)
            elif not all(side >= 1 for side in visible):  # Also at NaN.
                self._empty_boxes.append(file)
            else:
                difficult = element.findtext('difficult', '').strip() == '1'  # Some write words for no.
                ignored = difficult or min(x2 - x1, y2 - y1) < (self.bbox_min_size or 0)
                label = self.cat2label[name]
                instances.append(dict(bbox=[x1, y1, x2, y2], bbox_label=label, ignore_flag=int(ignored)))
        return instances
