"""Pascal VOC annotations that are checked while they are read. Needs mmdet."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmdet.datasets import XMLDataset

from mmiformer.datasets.coco import warn_of_skipped
from mmiformer.errors import UserError


class CheckedXMLDataset(XMLDataset):
    """mmdet's ``XMLDataset`` that tells what it cannot use, for boxes of one's own.

    mmdet's own hands boxes without area on, which make losses infinite, and passes over names that are
    no classes in silence. Configs name this class by its import path, so that importing mmiformer does
    not need mmdet.

    Raises:
        UserError: If an XML file is missing or broken, or no object has a class of the config.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the list of images and their XML files; warns, with names, of what is skipped."""
        self._empty_boxes: list[str] = []
        self._unknown: list[str] = []
        data_list = super().load_data_list()
        warn_of_skipped(self.ann_file, self._empty_boxes, 'boxes without area (below 1 pixel)')
        warn_of_skipped(self.ann_file, self._unknown, 'boxes whose name is none of the classes')
        if not any(data['instances'] for data in data_list):
            raise UserError(
                f'{self.ann_file}: none of its {len(data_list)} images has a box of the classes '
                f"{', '.join(self.metainfo['classes'])}; set the dataset's metainfo=dict(classes=...) to the "
                'names in the XML files.'
            )
        return data_list

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any]:
        """Parses one image's XML as mmdet does, without the boxes that cannot be learnt."""
        path = Path(img_info['xml_path'])
        try:
            names = [str(element.text) for element in ElementTree.parse(path).iterfind('object/name')]
            data = super().parse_data_info(img_info)
        except OSError as error:
            raise UserError(
                f'{path}: cannot be read ({error.strerror}); {self.ann_file} lists its image.'
            ) from error
        except (ElementTree.ParseError, AttributeError, ValueError, TypeError) as error:
            raise UserError(f'{path}: not a Pascal VOC annotation ({error}); restore the file.') from error
        self._unknown += [path.name for name in names if name not in self.metainfo['classes']]
        kept = []
        for instance in data['instances']:
            x1, y1, x2, y2 = instance['bbox']
            if x2 - x1 < 1 or y2 - y1 < 1:
                self._empty_boxes.append(path.name)
            else:
                kept.append(instance)
        return dict(data, instances=kept)
