"""The drawn detection data: its layout, its balance, and what colour alone finds."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmiformer.datasets.toy import coco as demo

NUM = {'train': 80, 'val': 30}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'coco'
    return demo.TOY_DATA.make(folder, num_train=NUM['train'], num_val=NUM['val'])


def load(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / 'annotations' / f'instances_{split}2017.json'))


def pictures(root: Path, split: str):
    """Pairs of (image as uint8 H x W x 3, its annotations)."""
    coco = load(root, split)
    for image in coco.loadImgs(sorted(coco.getImgIds())):
        picture = cv2.imread(str(root / f'{split}2017' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
        yield picture, coco.loadAnns(coco.getAnnIds(image['id'])), coco


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, again, other, longer = (
        content(demo.TOY_DATA.make(tmp_path / str(i), seed, train, 2))
        for i, (seed, train) in enumerate([(0, 4), (0, 4), (1, 4), (0, 5)])
    )
    assert first == again
    images = [name for name in first if name.endswith('.jpg')]
    assert len(images) == 6
    assert all(first[name] != other[name] for name in images)
    assert all(first[name] == longer[name] for name in images)  # images do not depend on each other
    assert len({first[name] for name in images}) == 6  # train and val share no image


@pytest.mark.parametrize('split', ['train', 'val'])
def test_layout_is_that_of_coco(root: Path, split: str) -> None:
    coco = load(root, split)
    assert len(coco.imgs) == NUM[split]
    assert coco.imgs[1]['file_name'] == '000000000001.jpg'
    assert {c['name']: c['id'] for c in coco.dataset['categories']} == demo.CATEGORY_IDS
    # COCO's own ids, in the order in which mmdet's CocoDataset pairs them with the class names
    assert demo.CATEGORY_IDS == {'umbrella': 28, 'kite': 38, 'donut': 60, 'clock': 85}
    assert coco.getCatIds(catNms=list(demo.CLASSES)) == list(demo.CATEGORY_IDS.values())
    assert all(1 <= len(coco.imgToAnns[i]) <= 5 for i in coco.imgs)
    assert len({(i['width'], i['height']) for i in coco.imgs.values()}) >= 5


@pytest.mark.parametrize('split', ['train', 'val'])
def test_mask_box_and_area_agree(root: Path, split: str) -> None:
    for picture, annotations, coco in pictures(root, split):
        covered = np.zeros(picture.shape[:2], int)
        for annotation in annotations:
            assert isinstance(annotation['segmentation']['counts'], str)
            assert annotation['iscrowd'] == 0
            mask = coco.annToMask(annotation)
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert annotation['bbox'] == box
            assert annotation['area'] == mask.sum() == rle.area(annotation['segmentation'])
            covered += mask
        assert covered.max() <= 1  # a pixel shows one object


def test_donuts_have_their_holes(root: Path) -> None:
    coco = load(root, 'train')
    for annotation in coco.loadAnns(coco.getAnnIds(catIds=demo.CATEGORY_IDS['donut'])):
        x, y, width, height = annotation['bbox']
        mask = coco.annToMask(annotation)
        if abs(width - height) <= 2:  # not cut by the image's border
            assert mask[int(y + height / 2), int(x + width / 2)] == 0


@pytest.mark.parametrize('split', ['train', 'val'])
def test_classes_are_balanced_and_sizes_vary(root: Path, split: str) -> None:
    coco = load(root, split)
    objects = list(coco.anns.values())
    images = coco.imgs
    sizes = [images[a['image_id']]['height'] * images[a['image_id']]['width'] for a in objects]
    shares = [a['area'] / size for a, size in zip(objects, sizes, strict=True)]
    assert 0.02 < np.median(shares) < 0.1
    counts = [len(coco.getAnnIds(catIds=i)) for i in demo.CATEGORY_IDS.values()]
    assert max(counts) < 2 * min(counts)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_every_object_is_textured(root: Path, split: str) -> None:
    for picture, annotations, coco in pictures(root, split):
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        for annotation in annotations:
            mask = coco.annToMask(annotation)
            values = grey[mask > 0].astype(float)
            assert values.std() > 15
            # The median ignores outline and lines: the fill itself varies.
            assert np.median(abs(values - np.median(values))) > 3


# -- What colour alone finds: the baseline for the demo's AP --------------------------------------


def colour_bins(picture: np.ndarray, space: str) -> np.ndarray:
    """The bin of every pixel: 8 x 8 x 8 of BGR, or 24 x 8 of hue and saturation."""
    if space == 'bgr':
        bins = picture.astype(int) >> 5
        return (bins[..., 0] * 8 + bins[..., 1]) * 8 + bins[..., 2]
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV).astype(int)
    return np.minimum(hsv[..., 0] * 24 // 180, 23) * 8 + (hsv[..., 1] >> 5)


def colour_models(root: Path, space: str) -> dict[int, np.ndarray]:
    """log p(colour | class) - log p(colour | rest), one value a bin, learned from train."""
    inside = {i: np.ones(512) for i in demo.CATEGORY_IDS.values()}
    outside = {i: np.ones(512) for i in demo.CATEGORY_IDS.values()}
    for picture, annotations, coco in pictures(root, 'train'):
        bins = colour_bins(picture, space)
        for category_id in inside:
            mask = np.zeros(bins.shape, bool)
            for annotation in annotations:
                if annotation['category_id'] == category_id:
                    mask |= coco.annToMask(annotation) > 0
            inside[category_id] += np.bincount(bins[mask], minlength=512)
            outside[category_id] += np.bincount(bins[~mask], minlength=512)
    return {i: np.log(inside[i] / inside[i].sum()) - np.log(outside[i] / outside[i].sum()) for i in inside}


def colour_boxes(root: Path, space: str, thresholds: Sequence[float]) -> dict[float, list[dict]]:
    """Connected areas of likely colour on val by threshold, scored by their mean likelihood ratio."""
    models = colour_models(root, space)
    found: dict[float, list[dict]] = {threshold: [] for threshold in thresholds}
    for picture, annotations, _ in pictures(root, 'val'):
        bins = colour_bins(picture, space)
        for category_id, model in models.items():
            score = cv2.blur(model[bins], (5, 5))  # grain would tear the areas apart
            for threshold in thresholds:
                likely = (score > threshold).astype(np.uint8)
                number, labels, stats, _ = cv2.connectedComponentsWithStats(likely)
                sums = np.bincount(labels.ravel(), score.ravel(), number)
                for k in range(1, number):
                    if stats[k, cv2.CC_STAT_AREA] >= 100:
                        found[threshold].append(
                            {
                                'image_id': annotations[0]['image_id'],
                                'category_id': category_id,
                                'bbox': stats[k, :4].astype(float).tolist(),
                                'score': float(sums[k] / stats[k, cv2.CC_STAT_AREA]),
                            }
                        )
    return found


def box_ap50(root: Path, found: list[dict]) -> float:
    truth = load(root, 'val')
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


def test_colour_alone_scores_low(root: Path) -> None:
    truth = load(root, 'val')
    exact = [{**a, 'score': 1.0} for a in truth.anns.values()]
    exact = [{k: a[k] for k in ('image_id', 'category_id', 'bbox', 'score')} for a in exact]
    assert box_ap50(root, exact) == pytest.approx(1)  # the measure is right
    scores = {
        (space, threshold): box_ap50(root, found)
        for space in ('bgr', 'hue')
        for threshold, found in colour_boxes(root, space, (-0.3, 0.0, 0.2, 0.5, 1.0)).items()
        if found
    }
    best = max(scores, key=scores.get)
    print(f'AP50 of colour alone: {scores[best]:.3f} {best}')
    assert len(scores) >= 5
    assert scores[best] < 0.2
