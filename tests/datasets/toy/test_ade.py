"""The drawn segmentation data: its layout, its balance, and what colour and position alone predict."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import LoadAnnotations

from mmiformer.datasets.toy import ade as demo

NUM = {'train': 80, 'val': 30}
FOLDERS = {'train': 'training', 'val': 'validation'}
GROUNDS = ('sky', 'sea', 'rock', 'sand')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'ade'
    return demo.TOY_DATA.make(folder, num_train=NUM['train'], num_val=NUM['val'])


def pictures(root: Path, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (image as uint8 H x W x 3, its labels as uint8 H x W)."""
    for path in sorted((root / 'images' / FOLDERS[split]).iterdir()):
        labels = root / 'annotations' / FOLDERS[split] / f'{path.stem}.png'
        yield cv2.imread(str(path)), cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, again, other, longer = (
        {p.name: p.read_bytes() for p in demo.TOY_DATA.make(tmp_path / str(i), seed, train, 2).rglob('ADE_*')}
        for i, (seed, train) in enumerate([(0, 4), (0, 4), (1, 4), (0, 5)])
    )
    assert len(first) == 12
    assert first == again
    assert all(first[name] != other[name] for name in first)
    assert all(first[name] == longer[name] for name in first)  # images do not depend on each other
    assert len(set(first.values())) == 12  # train and val share no image


def test_names_and_labels_are_those_of_ade() -> None:
    names = [name.strip() for name in ADE20KDataset.METAINFO['classes']]
    assert {name: names.index(name) + 1 for name in demo.CLASSES} == demo.LABELS
    assert list(demo.LABELS) == list(demo.CLASSES)
    assert list(demo.LABELS.values()) == sorted(demo.LABELS.values())


@pytest.mark.parametrize('split', ['train', 'val'])
def test_layout_is_that_of_ade(root: Path, split: str) -> None:
    stems = [f'ADE_{split}_{i + 1:08d}' for i in range(NUM[split])]
    for kind, suffix in (('images', '.jpg'), ('annotations', '.png')):
        folder = root / kind / FOLDERS[split]
        assert sorted(p.name for p in folder.iterdir()) == [stem + suffix for stem in stems]
    sizes = set()
    for picture, labels in pictures(root, split):
        assert labels.dtype == np.uint8
        assert labels.shape == picture.shape[:2]
        assert set(np.unique(labels)) <= {0, *demo.LABELS.values()}
        assert max(labels.shape) <= 256
        sizes.add(labels.shape)
    assert len(sizes) >= 5


def test_mmseg_reads_it(root: Path) -> None:
    dataset = ADE20KDataset(
        data_root=str(root),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        metainfo=dict(classes=demo.CLASSES),
        pipeline=[dict(type='LoadImageFromFile'), dict(type=LoadAnnotations)],
    )
    assert len(dataset) == NUM['val']
    codes = {label: i for i, label in enumerate(demo.LABELS.values())} | {0: 255}
    for sample, (picture, labels) in zip(dataset, pictures(root, 'val'), strict=True):
        assert np.array_equal(sample['img'], picture)
        assert np.array_equal(sample['gt_seg_map'], np.vectorize(codes.get)(labels))


@pytest.mark.parametrize('split', ['train', 'val'])
def test_classes_are_balanced(root: Path, split: str) -> None:
    labels = [labels for _, labels in pictures(root, split)]
    images = np.array([np.bincount(x.ravel(), minlength=151) for x in labels])
    shares = images.sum(0) / images.sum()
    grounds = [shares[demo.LABELS[name]] for name in GROUNDS]
    things = [shares[label] for name, label in demo.LABELS.items() if name not in GROUNDS]
    assert max(grounds) < 2 * min(grounds)
    assert max(things) < 2.5 * min(things)
    assert 0.15 < sum(things) < 0.35
    assert 0.02 < shares[0] < 0.1  # some is unlabelled, most is not
    assert ((images > 0)[:, list(demo.LABELS.values())].sum(0) >= NUM[split] / 4).all()
    assert 4 < (images[:, 1:] > 0).sum(1).mean() < 7


# -- What colour and position predict: the baseline for the demo's mIoU ---------------------------


def measure(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The mIoU of pairs of (predicted labels, true labels), over the classes that truly occur."""
    confusion = np.zeros((256, 256))
    for found, truth in pairs:
        known = truth > 0
        pairs_of_labels = truth[known].astype(int) * 256 + found[known]
        confusion += np.bincount(pairs_of_labels, minlength=256**2).reshape(256, 256)
    hits = np.diag(confusion)
    present = confusion.sum(1) > 0
    return float(np.mean(hits[present] / (confusion.sum(0) + confusion.sum(1) - hits)[present]))


CUES = ('bgr', 'hue', 'place')


def bins(picture: np.ndarray) -> dict[str, np.ndarray]:
    """The bin of every pixel, below 512: of its BGR, of its hue and saturation, and of its place."""
    height, width = picture.shape[:2]
    bgr = picture.astype(int) >> 5
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV).astype(int)
    return {
        'bgr': (bgr[..., 0] * 8 + bgr[..., 1]) * 8 + bgr[..., 2],
        'hue': np.minimum(hsv[..., 0] * 24 // 180, 23) * 8 + (hsv[..., 1] >> 5),
        'place': np.add.outer(np.arange(height) * 16 // height * 16, np.arange(width) * 16 // width),
    }


def histograms(root: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """From train: each class's log frequency, and log p(bin | class) as bins x classes for every cue."""
    counts = {cue: np.ones((512, len(demo.LABELS))) for cue in CUES}
    frequency = np.zeros(len(demo.LABELS))
    for picture, truth in pictures(root, 'train'):
        found = bins(picture)
        for k, label in enumerate(demo.LABELS.values()):
            mask = truth == label
            frequency[k] += mask.sum()
            for cue in CUES:
                counts[cue][:, k] += np.bincount(found[cue][mask], minlength=512)
    models = {cue: np.log(count / count.sum(0)).astype(np.float32) for cue, count in counts.items()}
    return np.log(frequency / frequency.sum()).astype(np.float32), models


def test_colour_and_position_alone_score_low(root: Path) -> None:
    val = list(pictures(root, 'val'))
    assert measure([(labels, labels) for _, labels in val]) == 1  # the measure is right
    prior, models = histograms(root)
    evidence = [{cue: models[cue][found] for cue, found in bins(picture).items()} for picture, _ in val]
    codes = np.array(list(demo.LABELS.values()))
    scores = {}
    for cues in (('bgr',), ('hue',), ('place',), ('bgr', 'place'), ('hue', 'place')):  # naive Bayes
        for name, start in (('as frequent as in train', prior), ('all as frequent', 0 * prior)):
            sums = [start + sum(each[cue] for cue in cues) for each in evidence]
            found = [(codes[x.argmax(-1)], labels) for x, (_, labels) in zip(sums, val, strict=True)]
            scores[' and '.join(cues), name] = measure(found)
    for (cues, name), score in scores.items():
        print(f'mIoU of {cues}, classes {name}: {score:.3f}')
    assert max(scores.values()) < 0.2
