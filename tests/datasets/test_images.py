"""Images of every kind and fault: the right pixels, or an error that names the file."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import png_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import EpsImagePlugin, Image, ImageCms, ImageOps

from mmiformer.apis.cli import load_config
from mmiformer.apis.inference import build_model, image_steps, predict
from mmiformer.datasets.loading import LoadCheckedImage, open_image
from mmiformer.tasks import task_of
from mmiformer.utils.errors import UserError

# Smooth, so that compression keeps it, and without symmetry.
PIXELS = cv2.resize(
    np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8),
    (60, 40),
    interpolation=cv2.INTER_CUBIC,
)
RGB = Image.fromarray(PIXELS)
GREY = np.array(RGB.convert('L'))
BACKENDS = dict(cv2='color', pillow='color_ignore_orientation')  # As the configs decode.


def encoded(kind: str, image: Image.Image = RGB, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def by_opencv(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def read(path: Path, backend: str = 'cv2', **options) -> np.ndarray:
    """RGB pixels."""
    load = LoadCheckedImage(**{'imdecode_backend': backend, 'color_type': BACKENDS[backend], **options})
    return load(dict(img_path=str(path)))['img'][..., ::-1]


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / 'picture'


ANOTHER = [Image.fromarray(255 - PIXELS)]  # the second frame
WHOLE = {
    'JPEG': encoded('JPEG'),
    'progressive JPEG': encoded('JPEG', progressive=True),
    'PNG': encoded('PNG'),
    'APNG': encoded('PNG', save_all=True, append_images=ANOTHER),
    'WebP': encoded('WEBP'),
    'lossless WebP': encoded('WEBP', lossless=True),
    'TIFF': encoded('TIFF'),
    'TIFF of two pages': encoded('TIFF', save_all=True, append_images=ANOTHER, compression='tiff_lzw'),
    'BMP': encoded('BMP'),
    'GIF': encoded('GIF'),
    'PPM': encoded('PPM'),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('kind', WHOLE)
def test_a_truncated_image_is_named_or_complete(kind, backend, tmp_path_factory):
    path, data = tmp_path_factory.mktemp('cut') / 'picture', WHOLE[kind]
    path.write_bytes(data)
    whole = read(path, backend)

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, len(data) - 1) | st.integers(len(data) - 24, len(data) - 1))
    def check(length: int) -> None:
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(read(path, backend), whole)
        except UserError as error:
            assert str(error).startswith(f'{path}: ') and '\n' not in str(error)

    check()


def palette_of(colours: int) -> Image.Image:
    return RGB.quantize(colours)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.fromarray((np.arange(60)[None] * 4).repeat(40, 0).astype(np.uint8)))
    return image


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


GREY_16, RGB_16 = GREY.astype(np.uint16) * 257, PIXELS.astype(np.uint16) * 257  # 0xABAB for 0xAB
ONE_BIT = RGB.convert('1')
INKS = np.array(RGB.convert('CMYK')).astype(float) / 255
KINDS = {
    'grey': (encoded('PNG', RGB.convert('L')), rgb(GREY)),
    '16 bits, grey PNG': (by_opencv('.png', GREY_16), rgb(GREY)),
    '16 bits, grey TIFF': (by_opencv('.tiff', GREY_16), rgb(GREY)),
    '16 bits, PGM': (encoded('PPM', Image.fromarray(GREY_16)), rgb(GREY)),
    '16 bits, RGB PNG': (by_opencv('.png', RGB_16), PIXELS),
    '16 bits, RGB TIFF': (by_opencv('.tiff', RGB_16), PIXELS),
    'palette': (encoded('PNG', palette_of(200)), np.array(palette_of(200).convert('RGB'))),
    'palette with transparency': (
        encoded('PNG', palette_of(200), transparency=3),
        np.array(palette_of(200).convert('RGB')),
    ),
    '1 bit, PNG': (encoded('PNG', ONE_BIT), np.array(ONE_BIT.convert('RGB'))),
    '1 bit, TIFF': (encoded('TIFF', ONE_BIT, compression='group4'), np.array(ONE_BIT.convert('RGB'))),
    'RGBA, PNG': (encoded('PNG', with_alpha(RGB)), PIXELS),
    'RGBA, WebP': (encoded('WEBP', with_alpha(RGB), lossless=True, exact=True), PIXELS),
    'animated GIF': (
        encoded('GIF', save_all=True, append_images=ANOTHER),
        np.array(Image.open(io.BytesIO(encoded('GIF'))).convert('RGB')),
    ),
    'animated WebP': (encoded('WEBP', save_all=True, append_images=ANOTHER, lossless=True), PIXELS),
    'animated PNG': (WHOLE['APNG'], PIXELS),
    'TIFF of two pages': (WHOLE['TIFF of two pages'], PIXELS),
    # What is left of white by the ink of a colour and by black.
    'CMYK, JPEG of Photoshop': (
        encoded('JPEG', RGB.convert('CMYK'), quality=100),
        255 * (1 - INKS[..., :3]) * (1 - INKS[..., 3:]),
    ),
    'CMYK, TIFF': (encoded('TIFF', RGB.convert('CMYK')), 255 * (1 - INKS[..., :3]) * (1 - INKS[..., 3:])),
    '1x1': (encoded('PNG', RGB.crop((0, 0, 1, 1))), PIXELS[:1, :1]),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_keeps_its_pixels(file, kind, backend):
    data, expected = KINDS[kind]
    file.write_bytes(data)
    found = read(file, backend)
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert abs(found - expected.astype(float)).max() <= (2.5 if 'CMYK' in kind else 0)


def test_unchanged_returns_raw_numbers(file):
    file.write_bytes(by_opencv('.png', GREY_16))
    assert np.array_equal(read(file, color_type='unchanged')[..., ::-1], GREY_16)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_rotation_is_applied(file, orientation):
    shown = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1),
        7: np.rot90(PIXELS, 2).transpose(1, 0, 2),
        8: np.rot90(PIXELS),
    }[orientation]
    file.write_bytes(encoded('PNG', exif=turned(orientation)))
    assert np.array_equal(read(file), shown)
    assert np.array_equal(read(file, 'pillow'), PIXELS)  # as ImageNet's configs read
    file.write_bytes(encoded('TIFF', tiffinfo={0x0112: orientation}))
    assert np.array_equal(read(file), shown)
    file.write_bytes(encoded('JPEG', exif=turned(orientation), quality=100))
    found = read(file)
    assert found.shape == shown.shape and abs(found - shown.astype(float)).mean() < 3


def lab() -> Image.Image:
    profiles = (ImageCms.createProfile(name) for name in ('sRGB', 'LAB'))
    return ImageCms.applyTransform(RGB, ImageCms.buildTransform(*profiles, 'RGB', 'LAB'))


REFUSED = {
    'empty': (b'', r'not a readable image \(0 bytes, expected one of'),
    'text': (b'plain text', r'not a readable image \(10 bytes, expected one of AVIF, BMP'),
    'eight bytes': (b'\x89PNG\r\n\x1a\n', 'not a readable image'),
    'bomb': (png_of(100_000, 100_000), r'not a readable image .*10000000000 pixels\) exceeds limit'),
    'too few pixels': (png_of(40, 30), 'not a readable image'),
    'wide strip': (
        png_of(20_000, 10),
        r'not a readable image \(20000x10 pixels, one side above 100 times',
    ),
    'high strip': (png_of(10, 20_000), r'not a readable image \(10x20000 pixels, one side above 100 times'),
    'float': (
        encoded('TIFF', Image.fromarray(GREY.astype(np.float32) / 255)),
        'not a readable image .* mode F',
    ),
    'float RGB': (by_opencv('.tiff', PIXELS.astype(np.float32) / 255), 'not a readable image'),
    '32 bits': (encoded('TIFF', Image.fromarray(GREY.astype(np.int32) * 1000)), 'not a readable image'),
    'Lab': (encoded('TIFF', lab()), 'not a readable image .* mode LAB'),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('kind', REFUSED)
def test_unreadable_images_are_named(file, kind, backend):
    data, words = REFUSED[kind]
    file.write_bytes(data)
    with pytest.raises(UserError, match=f'picture: {words}') as error:
        read(file, backend)
    assert str(error.value).startswith(f'{file}: ') and '\n' not in str(error.value)


@pytest.mark.parametrize('backend', BACKENDS)
def test_postscript_is_never_run(file, backend, monkeypatch):
    """Pillow runs PostScript with Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *_: pytest.fail('PostScript was run'))
    file.write_bytes(encoded('EPS'))
    for call in (lambda: read(file, backend), lambda: open_image(file).load()):
        with pytest.raises((UserError, OSError), match='expected one of'):
            call()


def test_folders_pipes_and_invalid_names_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for name, words in (
        ('', 'is a folder, a pipe or a device'),
        ('pipe', 'is a folder, a pipe or a device'),
        ('none.jpg', 'no such file'),
        ('a\0b.jpg', r'cannot be read \(embedded null byte'),
        ('a\ud800.jpg', r'cannot be read \(.*surrogates not allowed'),
        ('x' * 300, r'cannot be read \(File name too long'),
    ):
        with pytest.raises(UserError, match=words) as error:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_odd_file_names_are_read(tmp_path):
    for name in ('a b.png', 'Größe 图.png', 'two\nlines.png', '-rf.png', 'quo\'te".png'):
        (tmp_path / name).write_bytes(WHOLE['PNG'])
        assert np.array_equal(read(tmp_path / name), PIXELS)


def test_an_image_must_have_the_size_of_its_annotations(file):
    load = LoadCheckedImage()
    file.write_bytes(WHOLE['PNG'])
    assert load(dict(img_path=str(file), width=60, height=40))['img_shape'] == (40, 60)
    with pytest.raises(UserError, match='picture: 60x40 pixels .* but its annotations are of 61x40'):
        load(dict(img_path=str(file), width=61, height=40))
    file.write_bytes(encoded('JPEG', exif=turned(6)))
    with pytest.raises(UserError, match='40x60 pixels .after EXIF rotation., but .* of 60x40'):
        load(dict(img_path=str(file), width=60, height=40))


# -- Masks -------------------------------------------------------------------------------------


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    load = TRANSFORMS.build(dict(type='LoadCheckedSegMap'))
    results = dict(img_path='picture', seg_map_path=str(path), ori_shape=shape, seg_fields=[])
    return load(dict(results, label_table=np.arange(256, dtype=np.int16)))['gt_seg_map']


def test_a_truncated_mask_is_named_or_complete(tmp_path_factory):
    path, labels = tmp_path_factory.mktemp('cut') / 'mask.png', GREY % 7
    data = encoded('PNG', Image.fromarray(labels))

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, len(data) - 1) | st.integers(len(data) - 24, len(data) - 1))
    def check(length: int) -> None:
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(read_mask(path, labels.shape), labels)
        except UserError as error:
            assert str(error).startswith(f'{path}: ') and '\n' not in str(error)

    check()


def test_hostile_masks_are_refused(tmp_path, monkeypatch):
    file = tmp_path / 'mask.png'
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *_: pytest.fail('PostScript was run'))
    for data in (encoded('EPS', RGB.convert('L')), png_of(100_000, 100_000), png_of(60, 40)):
        file.write_bytes(data)
        with pytest.raises(UserError, match=r'mask\.png: not a readable mask \('):
            read_mask(file, (40, 60))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match=r'mask\.png: is a folder, a pipe or a device'):
        read_mask(file, (40, 60))


# -- Extreme shapes through pipelines and networks ------------------------------------------------

CONFIGS = dict(
    detection='detection/maskrcnn_iformer_t_coco.py',
    segmentation='segmentation/fpn_iformer_t_ade20k.py',
    classification='classification/iformer_t_in1k.py',
)
# One pixel, and the longest strips that the configs take.
SHAPES = ((1, 1), (3200, 32), (32, 3200), (1000, 32), (32, 1000))


def read_image(cfg: Config, image: Path) -> np.ndarray:
    """As the test pipeline does, RGB."""
    load = TRANSFORMS.build(image_steps(cfg)[0])
    return np.ascontiguousarray(load(dict(img_path=str(image)))['img'][..., ::-1])


@pytest.mark.parametrize('task', CONFIGS)
def test_extreme_shapes_are_trained_and_predicted_or_named(root, tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(str(root / 'configs' / CONFIGS[task]))
    cfg.model.backbone.pop('init_cfg', None)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        for step in loader.dataset.pipeline:
            if step.type == 'Resize' and task == 'detection':
                step.scale = (320, 192)  # of the same shape, and quicker
    if task == 'detection':
        cfg.model.test_cfg.rpn.max_per_img = cfg.model.test_cfg.rcnn.max_per_img = 20
    model = build_model(cfg, None)
    train = Compose([TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline])
    painter = task_of(cfg).painter(cfg, model.dataset_meta, 0.0)
    for width, height in SHAPES:
        image, mask = tmp_path / f'{width}x{height}.png', tmp_path / 'mask.png'
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(image), pixels)
        cv2.imwrite(str(mask), pixels[..., 0] % 2)
        sample = dict(img_path=str(image), img_id=0, gt_label=0, width=width, height=height, instances=[])
        sample['instances'].append(
            dict(
                bbox=[0, 0, width, height],
                bbox_label=0,
                ignore_flag=0,
                mask=[[0, 0, width, 0, width, height]],
            )
        )
        sample.update(seg_map_path=str(mask), seg_fields=[], label_table=np.arange(256, dtype=np.int16))
        if task == 'segmentation' and max(width, height) > 32 * min(width, height):
            for call in (lambda: train(dict(sample)), lambda: predict(model, cfg, image)):  # noqa: B023
                with pytest.raises(UserError, match=f'{width}x{height}.png: .* above 32 times the other'):
                    call()
            continue
        inputs = train(dict(sample))['inputs']
        assert min(inputs.shape[1:]) >= 1 and inputs.numel() < 3 * 1000 * 1000
        found = predict(model, cfg, image)
        if task == 'segmentation':
            assert found.pred_sem_seg.data.shape == (1, height, width)
        out = tmp_path / 'out.png'
        painter.save(read_image(cfg, image), found, out)
        assert cv2.imread(str(out)).size < 4 * 3 * 3000 * 3000


def test_an_image_too_small_for_the_network_is_named(root, tmp_path, monkeypatch):
    """In a config without resizing."""
    monkeypatch.chdir(tmp_path)
    cfg = load_config(str(root / 'configs' / CONFIGS['segmentation']))
    cfg.model.backbone.pop('init_cfg', None)
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline = [step for step in pipeline if step.type != 'Resize']
    cv2.imwrite('small.png', np.zeros((31, 60, 3), np.uint8))
    with pytest.raises(UserError, match=r'small\.png: IFormer: the input is 31x60 pixels'):
        predict(build_model(cfg, None), cfg, 'small.png')


def test_pictures_show_what_the_network_sees(root, tmp_path):
    init_default_scope('mmpretrain')
    (tmp_path / 'a.png').write_bytes(encoded('PNG', exif=turned(6)))
    for task, expected in (
        ('classification', PIXELS),
        ('detection', np.array(ImageOps.exif_transpose(Image.open(tmp_path / 'a.png')))),
    ):
        cfg = load_config(str(root / 'configs' / CONFIGS[task]))
        assert np.array_equal(read_image(cfg, tmp_path / 'a.png'), expected)
