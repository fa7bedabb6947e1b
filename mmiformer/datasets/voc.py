"""Pascal VOC annotations that are checked while they are read. Needs mmdet."""

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmdet.datasets import XMLDataset

from mmiformer.datasets.annotations import NO_AREA
from mmiformer.datasets.coco import warn_of_skipped
from mmiformer.datasets.loading import BROKEN, open_image, shown_size
from mmiformer.utils.errors import UserError, first_line, unreadable
from mmiformer.utils.files import check_regular


class CheckedXMLDataset(XMLDataset):
    """mmdet's ``XMLDataset`` with checks; what is skipped is logged.

    mmdet's own hands boxes without area in the image on, which make losses infinite, and passes over names
    that are no classes in silence. Configs name this class by its import path, so that importing
    mmiformer does not need mmdet.

    Raises:
        UserError: If an image or XML file is missing or broken, the two are of different sizes, the list
            has a line that is no name, or no object has a class of the config.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the list of images and their XML files; warns, with names, of what is skipped."""
        self._empty_boxes: list[str] = []
        self._unknown: list[str] = []
        check_regular(self.ann_file)
        try:
            lines = Path(self.ann_file).read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeError) as error:
            raise unreadable(error, self.ann_file) from error
        for number, line in enumerate(lines, start=1):
            if len(line.split()) != 1:
                raise UserError(
                    self.ann_file,
                    f"line {number} is '{line}'",
                    'expected the name of one image, without its ending',
                )
        data_list = super().load_data_list()
        warn_of_skipped(self.ann_file, self._empty_boxes, NO_AREA)
        warn_of_skipped(self.ann_file, self._unknown, 'boxes whose name is none of the classes')
        if not any(data['instances'] for data in data_list):
            raise UserError(
                self.ann_file,
                f'none of its {len(data_list)} images has a box of the classes '
                f'{", ".join(self.metainfo["classes"])}',
                "set the dataset's metainfo=dict(classes=...) to the names in the XML files",
            )
        return data_list

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any]:
        """Parses one image's XML, without the boxes that cannot be learnt."""
        path, image = Path(img_info['xml_path']), Path(self.sub_data_root, img_info['file_name'])
        check_regular(path)
        check_regular(image)
        try:
            root = ElementTree.parse(path).getroot()
        except OSError as error:
            raise self._unreadable(path, error) from error
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # The latter of odd encodings.
            raise UserError(path, f'broken XML ({error})', 'restore the file') from error
        try:
            with open_image(image) as opened:
                width, height = shown_size(opened)
        except BROKEN as error:
            raise self._unreadable(image, error) from error
        declared = [int(_number(root, path, f'size/{side}', '0')) for side in ('width', 'height')]
        if all(declared) and declared != [width, height]:
            raise UserError(
                path,
                f'is of an image of {declared[0]}x{declared[1]} pixels, and {image} has {width}x{height}',
                'restore the image, or scale the boxes and correct <size>',
            )
        instances = []
        for element in root.iterfind('object'):
            name = element.findtext('name', '').strip()
            if name not in self.cat2label:
                self._unknown.append(path.name)
                continue
            sides = ('xmin', 'ymin', 'xmax', 'ymax')
            x1, y1, x2, y2 = (
                _number(element, path, f'bndbox/{side}') - 1 for side in sides
            )  # Counted from 1.
            if min(x2, width) - max(x1, 0) < 1 or min(y2, height) - max(y1, 0) < 1:
                self._empty_boxes.append(path.name)
                continue
            difficult = element.findtext('difficult', '').strip() == '1'  # Some write words for no.
            ignored = difficult or min(x2 - x1, y2 - y1) < (self.bbox_min_size or 0)
            label = self.cat2label[name]
            instances.append(dict(bbox=[x1, y1, x2, y2], bbox_label=label, ignore_flag=int(ignored)))
        return dict(img_info, img_path=str(image), width=width, height=height, instances=instances)

    def _unreadable(self, file: Path, error: Exception) -> UserError:
        reason = getattr(error, 'strerror', None) or f'no image, {first_line(error)}'
        return UserError(
            file,
            f'cannot be read ({reason})',
            f'{self.ann_file} lists it, so restore it or take it off the list',
        )


def _number(element: ElementTree.Element, path: Path, field: str, default: str | None = None) -> float:
    text = element.findtext(field, default)
    try:
        number = float(text or '')
    except ValueError:
        number = float('nan')
    if not math.isfinite(number):
        raise UserError(path, f"<{field.replace('/', '><')}> is '{text}'", 'expected a number')
    return number
