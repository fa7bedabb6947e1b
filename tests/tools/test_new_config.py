"""Data of one's own: what is read must be what was written, and what is damaged must be named."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from pycocotools import mask as rle

from mmiformer.apis.cli import check_data, load_config
from mmiformer.datasets.checks import build_datasets
from mmiformer.datasets.own import OwnData, read_own_data
from mmiformer.utils.errors import UserError

W, H = 64, 48
BOX = (
    '<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>'
    '<ymax>{}</ymax></bndbox></object>'
)


def write(path: Path, image: np.ndarray | None = None) -> None:
    """Writes an array, or noise that differs from that of other paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image is None:
        image = np.random.default_rng([*str(path).encode()]).integers(0, 255, (H, W, 3)).astype(np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def notes(data: OwnData) -> str:
    return '\n'.join(data.folder.notes())


def objects(data: OwnData) -> dict[str, list]:
    return {Path(s.file).stem: [(name, *np.round(o['bbox'], 2)) for name, o in s.label] for s in data.samples}


def yolo(root: Path, lines: str, stem: str, split: str = 'train') -> None:
    write(root / f'images/{split}/{stem}.png')
    (root / f'labels/{split}').mkdir(parents=True, exist_ok=True)
    (root / f'labels/{split}/{stem}.txt').write_text(lines)


def test_yolo_boxes_and_all_that_can_be_wrong_with_them(tmp_path):
    yolo(tmp_path, '0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.25 0.25', 'größe')
    yolo(tmp_path, '', 'empty')
    yolo(
        tmp_path,
        'cat 1 2\n7 0.5 0.5 0.1 0.1\n0 0.5 0.5 20 0.1\n0 0.5 0.5 0 0.1\n0 0.1 0.1 0.2 0.2 0.3',
        'odd',
    )
    yolo(tmp_path, '1 0.5 0.5 1 1', 'v', 'val')
    write(tmp_path / 'images/train/unlabelled.png')
    write(tmp_path / 'images/val/copy.png', cv2.imread(str(tmp_path / 'images/train/empty.png')))
    (tmp_path / 'labels/val/copy.txt').write_text('')
    (tmp_path / 'images/train/broken.png').write_bytes(b'')
    (tmp_path / 'data.yaml').write_text('names: {0: cat, 1: dog, 2: cow}')
    data = read_own_data(tmp_path)
    assert (data.task, data.classes) == ('det', ['cat', 'dog'])
    expected = {'größe': [('cat', 24, 12, 16, 24), ('dog', 8, 6, 16, 12)], 'empty': [], 'odd': []}
    assert objects(data) == {**expected, 'v': [('dog', 0, 0, W, H)]}
    assert [Path(sample.file).stem for sample in data.of('val')] == ['v']
    for line in (
        'Empty or unreadable images: 1',
        'Images without a .txt of labels (an empty one means no objects): 1 (images/train/unlabelled.png)',
        'Lines that are no box or polygon of YOLO: 2 (images/train/odd.png)',
        'Objects of a class above 2: 1 ',
        'Objects with coordinates that are not between 0 and 1: 1 ',
        'Boxes without area (below 1 pixel, or outside of the image): 1 ',
        "Classes without an object: 1 ('cow')",
        'Copies of other images, which would leak into other splits: 1 (images/val/copy.png)',
    ):
        assert line in notes(data)


def test_yolo_polygons_in_one_flat_folder(tmp_path):
    for i in range(5):
        write(tmp_path / f'{i}.png')
        (tmp_path / f'{i}.txt').write_text('1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75')
    data = read_own_data(tmp_path, classes=['a', 'b'])
    assert (data.task, data.classes, len(data.of('train')), len(data.of('val'))) == ('ins', ['b'], 4, 1)
    ((_, found),) = data.samples[0].label
    assert found['bbox'] == [16, 12, 32, 24] and found['area'] == 32 * 24
    assert found['segmentation'] == [[16, 12, 48, 12, 48, 36, 16, 36]]
    assert [s.file for s in read_own_data(tmp_path).of('val')] == [s.file for s in data.of('val')]
    assert 'segmentation' not in read_own_data(tmp_path, 'det').samples[0].label[0][1]


def test_voc_with_lists(tmp_path):
    for stem, boxes in dict(
        a=[('x', 0, 1, 1, 21, 11), ('y', 1, 5, 5, 9, 9)], b=[('x', 0, 5, 5, 5, 30)], c=[], d=[]
    ).items():
        write(tmp_path / f'JPEGImages/{stem}.png')
        (tmp_path / 'Annotations').mkdir(exist_ok=True)
        text = '<annotation>' + ''.join(BOX.format(*box) for box in boxes) + '</annotation>'
        (tmp_path / f'Annotations/{stem}.xml').write_text(text)
    (tmp_path / 'Annotations/d.xml').write_text('<annotation>')
    write(tmp_path / 'JPEGImages/e.png')
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'ImageSets/Main/train.txt').write_text('a\nb\n')
    (tmp_path / 'ImageSets/Main/val.txt').write_text('c\n')
    data = read_own_data(tmp_path)
    assert objects(data) == dict(a=[('x', 0, 0, 20, 10), ('y', 4, 4, 4, 4)], b=[], c=[])
    assert [o['iscrowd'] for _, o in data.samples[0].label] == [0, 1]  # Difficult.
    assert [sample.split for sample in data.samples] == ['train', 'train', 'val']
    assert 'Boxes without area (below 1 pixel, or outside of the image): 1 (JPEGImages/b.png)' in notes(data)
    assert 'Unreadable XML files: 1 (Annotations/d.xml)' in notes(data)
    assert 'Images without a .xml of labels (an empty one means no objects): 1 (JPEG' in notes(data)


def test_coco_json_of_other_exporters(tmp_path):
    images = [dict(id=i, file_name=f'{i}.png', width=float(W), height=H) for i in range(5)]
    images[3]['width'] = 50
    square = [[8, 8, 24, 8, 24, 24, 8, 24]]
    annotations = [
        dict(id=0, image_id=i, category_id=1, bbox=[8, 8, 16, 16], segmentation=square) for i in range(5)
    ]
    annotations += [dict(annotations[0], category_id=9), dict(annotations[0], bbox=[1, 2]), dict(image_id=1)]
    content = dict(images=images, annotations=annotations)
    content['categories'] = [dict(id=0, name='all'), dict(id=1, name='cell')]
    (tmp_path / '_annotations.coco.json').write_text(json.dumps(content))
    for i in range(4):
        write(tmp_path / f'images/{i}.png')
    data = read_own_data(tmp_path)
    assert (data.task, data.classes) == ('ins', ['cell'])
    assert objects(data) == {str(i): [('cell', 8, 8, 16, 16)] for i in range(3)}
    for line in (
        'Annotated images that do not exist or are broken: 1 (4.png)',
        'Images of another size than annotated: 1 (images/3.png)',
        'Objects of an undeclared image or category: 2 ',
        'Objects without a correct box or mask: 1 (images/0.png)',
    ):
        assert line in notes(data)


def test_instance_masks(tmp_path):
    truth = {}
    for i in range(5):
        mask = np.zeros((H, W), np.uint16)
        for number in range(i + 1):
            mask[5 * number : 5 * number + 4, 3 + i : 20] = number + 1
        truth[str(i)] = mask
        write(tmp_path / f'PNGImages/{i}.png')
        write(tmp_path / f'PedMasks/{i}_mask.png', mask)
    data = read_own_data(tmp_path)
    assert (data.task, data.classes) == ('ins', ['object'])
    for sample in data.samples:
        found = sum(n * rle.decode(o['segmentation']) for n, (_, o) in enumerate(sample.label, 1))
        assert (found == truth[Path(sample.file).stem]).all()
        assert sample.label[0][1]['bbox'] == [
            3 + int(Path(sample.file).stem),
            0,
            17 - int(Path(sample.file).stem),
            4,
        ]


CASES = {
    'black and white': ([0, 255], [], ['background', 'foreground'], [0, 1]),
    'void': ([0, 1, 255], [], ['class_0', 'class_1'], [0, 1, 255]),
    'gaps': ([0, 38, 75], [], ['class_0', 'class_38', 'class_75'], [0, 1, 2]),
    'a value above the names': ([0, 1, 2, 3, 4], ['a', 'b', 'c'], ['a', 'b', 'c'], [0, 1, 2, 255, 255]),
}


@pytest.mark.parametrize('case', CASES)
def test_label_masks(tmp_path, run_tool, case):
    values, names, classes, indices = CASES[case]
    mask = np.array(values, np.uint8)[np.arange(W * H).reshape(H, W) % len(values)]
    for i in range(3):
        write(tmp_path / f'own/{i}.jpg')
        write(tmp_path / f'own/{i}_mask.png', mask)
    write(tmp_path / 'own/4.jpg')
    write(tmp_path / 'own/4_mask.png', mask[1:])
    cfg, out = configure(run_tool, tmp_path, *(['--classes', *names] if names else []), '--task', 'seg')
    assert 'Masks of another size than their image: 1 (4_mask.png)' in out
    assert list(cfg.val_dataloader.dataset.metainfo.classes) == classes
    assert ('Masks with 3, 4, no class and ignored (39.' in out) == (case == 'a value above the names')
    steps = [dict(type='LoadCheckedImage'), dict(type='LoadCheckedSegMap')]
    (dataset,) = build_datasets(cfg, 'train', pipeline=steps)
    assert (dataset[0]['gt_seg_map'] == np.array(indices)[np.arange(W * H).reshape(H, W) % len(values)]).all()


def test_colour_masks(tmp_path, run_tool):
    colours = np.array([[128, 0, 0], [0, 128, 0], [0, 0, 0]], np.uint8)  # RGB
    labels = np.arange(W * H).reshape(H, W) % 3
    for split in ('train', 'val', 'test'):
        for i in range(2):
            write(tmp_path / f'own/{split}/{i}.png')
            write(tmp_path / f'own/{split}_labels/{i}_L.png', colours[labels][..., ::-1])
    (tmp_path / 'own/class_dict.csv').write_text('name,r,g,b\nroad,0,128,0\nsky,128,0,0\nvoid,0,0,0\n')
    cfg, _ = configure(run_tool, tmp_path)
    assert cfg.val_dataloader.dataset.metainfo == dict(
        classes=('road', 'sky'), palette=[[0, 128, 0], [128, 0, 0]]
    )
    assert cfg.model.decode_head.num_classes == 2
    steps = [dict(type='LoadCheckedImage'), dict(type='LoadCheckedSegMap')]
    (dataset,) = build_datasets(cfg, 'test', pipeline=steps)
    assert (dataset[0]['gt_seg_map'] == np.array([1, 0, 255])[labels]).all()
    assert 'own/test/0.png' in dataset[0]['img_path']


def test_class_folders(tmp_path, run_tool):
    for name, number in dict(cat=10, dog=5, car=5).items():
        for i in range(number):
            write(tmp_path / f'own/unpacked/{name}/a b {i}.png')
    write(tmp_path / 'own/unpacked/loose.png')
    cfg, out = configure(run_tool, tmp_path, '--seed', '1')
    assert 'Images in no class folder: 1 (unpacked/loose.png)' in out
    (train,), (val,) = build_datasets(cfg, 'train'), build_datasets(cfg, 'val')
    assert np.bincount(train.get_gt_labels()).tolist() == [4, 8, 4]  # In alphabetical order: car, cat, dog.
    assert np.bincount(val.get_gt_labels()).tolist() == [1, 2, 1]
    assert (
        f'/{val.metainfo["classes"][val[0]["data_samples"].gt_label.item()]}/'
        in val.get_data_info(0)['img_path']
    )
    assert cfg.model.head.num_classes == cfg.model.data_preprocessor.num_classes == 3


def test_class_folders_of_splits(tmp_path):
    for name in ('train/a', 'train/b', 'valid/a', 'valid/b', 'valid/c'):
        for i in range(2):
            write(tmp_path / f'{name}/{i}.png')
    data = read_own_data(tmp_path)
    assert (data.classes, len(data.of('train')), len(data.of('val'))) == (['a', 'b'], 4, 4)
    assert "Images of 'c', a class without training images: 2 (valid/c/0.png, valid/c/1.png)" in notes(data)


def test_frames_of_one_film_stay_in_one_split(tmp_path):
    for i in range(20):
        write(tmp_path / f'{"ab"[i % 2]}/film{i // 4}_{i}.png')
    write(tmp_path / 'b/film0_same.png', cv2.imread(str(tmp_path / 'a/film0_0.png')))
    data = read_own_data(tmp_path, group=r'(film\d)_')
    films = [{sample.file[2:7] for sample in data.of(split)} for split in ('train', 'val')]
    assert not films[0] & films[1] and len(data.of('val')) == 4
    assert 'Copies of other images, in another class: 1 (b/film0_same.png)' in notes(data)
    for group, words in (('clip', 'finds nothing in a/film0_0.png'), ('(', 'not a regular expression')):
        with pytest.raises(UserError, match=words):
            read_own_data(tmp_path, group=group)


@pytest.mark.parametrize('model', ['rtmdet_iformer_t', 'retinanet_mocovit', 'maskrcnn_iformer_m'])
def test_configs_of_detectors(tmp_path, run_tool, model):
    for i in range(5):
        write(tmp_path / f'own/{i}.png')
        (tmp_path / f'own/{i}.txt').write_text('0 0.25 0.25 0.75 0.25 0.75 0.75')
    task = 'ins' if 'mask' in model else 'det'
    cfg, _ = configure(run_tool, tmp_path, '--model', f'{model}_coco', '--task', task)
    (train,) = build_datasets(cfg, 'train')
    assert len(train) == 4 and train[0]['data_samples'].gt_instances.bboxes.tensor.shape == (1, 4)
    assert train.get_data_info(0)['instances'][0]['bbox'] == [16, 12, 48, 36]
    assert cfg.model.backbone.get('norm_eval', False) is False
    assert (cfg.model.backbone.init_cfg is None) == (model == 'retinanet_mocovit')  # It has no weights.
    assert not any(hook.type == 'PipelineSwitchHook' for hook in cfg.get('custom_hooks', []))
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'


def configure(run_tool, tmp_path: Path, *options: str) -> tuple[Config, str]:
    """Runs the tool on the folder ``own``; the config is checked as before a training."""
    code, out, err = run_tool('new_config', tmp_path / 'own', '--out', tmp_path / 'my.py', *options)
    assert code == 0, err
    cfg = load_config(str(tmp_path / 'my.py'))
    check_data(cfg, ('train', 'val', 'test'))
    return cfg, out


def test_mistakes(tmp_path, run_tool):
    write(tmp_path / 'own/a.png')
    (tmp_path / 'own/a.json').write_text('{}')
    code, _, err = run_tool('new_config', tmp_path / 'own', '--out', tmp_path / 'my.py')
    assert code == 1 and '1 images, but no labels for any task of a known format' in err
    with pytest.raises(UserError, match='no such folder'):
        read_own_data(tmp_path / 'none')
    with pytest.raises(UserError, match='holds no intact image'):
        (tmp_path / 'empty').mkdir()
        read_own_data(tmp_path / 'empty')
    (tmp_path / 'my.py').write_text('')
    code, _, err = run_tool('new_config', tmp_path / 'own', '--out', tmp_path / 'my.py')
    assert code == 1 and 'my.py: exists already; remove my.py and my_labels, or change --out' in err
