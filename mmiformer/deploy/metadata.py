"""What is needed to use an exported file, stored with it: classes, normalisation, resizing, thresholds."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmiformer
from mmiformer.datasets.checks import datasets_of
from mmiformer.deploy import postprocess
from mmiformer.deploy.fitting import divisor_of, padding_colour, pair, preprocessor_of
from mmiformer.deploy.wrappers import ExportWrapper
from mmiformer.tasks import task_of
from mmiformer.utils.configs import kind_of
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write, replacing

_KEY = 'mmiformer'  # Of our entry in the metadata of ONNX files.
_HERE = Path(__file__).parent
_NEEDED = {'task', 'classes', 'outputs', 'pixels', 'colour', 'mean', 'std', 'exif', 'resize', 'crop', 'pad'}


def describe(cfg: Config, wrapper: ExportWrapper, pixels: bool, meta: dict[str, Any]) -> dict[str, Any]:
    """Describes how to use the file of a model, as :mod:`mmiformer.deploy.postprocess` takes it.

    Args:
        cfg: The config, its pipeline fitted to the file (:func:`~mmiformer.deploy.fitting.fit_images`).
        wrapper: What was exported, in the form that suits the runtime.
        pixels: Whether the file normalises.
        meta: Classes and palette of the model.

    Returns:
        Of JSON's types: ``task``, ``classes``, ``palette``, ``outputs`` (their names), ``pixels``, ``colour``
        (order of the channels), ``mean``, ``std``, ``exif`` (whether images are turned by it), ``resize``,
        ``crop``, ``pad``, of a detector ``thresholds`` and ``mask_widths``, and ``version``. Sizes are height
        and width; the value of padding is RGB.

    Raises:
        UserError: If the test pipeline has a step other than resizing, cropping at the centre and padding.
    """
    load, *steps = datasets_of(cfg, 'test')[0].pipeline
    resize: dict[str, Any] = dict(mode='keep', interpolation='bilinear', antialias=False)
    crop, pad = None, None
    for step in steps:
        kind = kind_of(step)
        if kind in ('Resize', 'ResizeInside', 'ResizeEdge'):
            resize = _resize(kind, step)
        elif kind == 'CenterCrop':
            crop = pair(step.crop_size)[::-1]
        elif kind == 'Pad' and not step.get('pad_to_square'):
            pad = step
        elif not kind.startswith(('Load', 'Pack')):
            problem = f'{kind} is no step of resizing, cropping or padding that apps could repeat'
            raise UserError('test_dataloader.dataset.pipeline', problem, 'take it out of the config')
    before = preprocessor_of(cfg)
    colour, padded = padding_colour(before), crop or (before.get('test_cfg') or {}).get('size')
    if pad is not None:
        chosen = pad.get('pad_val', 0)
        chosen = chosen.get('img', 0) if isinstance(chosen, dict) else chosen
        colour = [float(c) for c in (chosen[::-1] if isinstance(chosen, list | tuple) else [chosen] * 3)]
        padded = pad.get('size') and pad['size'][::-1]
    divisor = math.lcm(divisor_of(before, wrapper.divisor), (pad or {}).get('size_divisor') or 1)
    info = dict(
        version=mmiformer.__version__,
        task=task_of(cfg).name,
        classes=[str(name) for name in meta.get('classes') or ()],
        palette=[[int(c) for c in own] for own in meta.get('palette') or ()],
        outputs=list(wrapper.outputs),
        pixels=pixels,
        colour='rgb' if before.get('bgr_to_rgb') or before.get('to_rgb') else 'bgr',
        mean=[float(value) for value in before['mean']],
        std=[float(value) for value in before['std']],
        exif='ignore_orientation' not in load.get('color_type', 'color'),
        resize=resize,
        crop=crop and list(crop),
        pad=dict(size=padded and list(padded), divisor=divisor, value=colour),
    )
    if info['task'] == 'det':
        test_cfg = cfg.model.test_cfg
        limits = test_cfg.get('rcnn') or test_cfg
        info['thresholds'] = dict(
            score_thr=limits.score_thr,
            iou_threshold=limits.nms.iou_threshold,
            max_per_img=limits.max_per_img,
            nms_pre=limits.get('nms_pre', 1000),
            mask_thr_binary=limits.get('mask_thr_binary', 0.5),
        )
        info['mask_widths'] = list(wrapper.widths)
    return info


def of_input(info: dict[str, Any]) -> dict[str, Any]:
    """Metadata for an image that already is the input of a file."""
    return dict(info, resize=dict(mode='keep'), crop=None, pad=dict(size=None, divisor=1))


def _resize(kind: str, step: Any) -> dict[str, Any]:
    """The rule of mm's ``Resize`` and ``ResizeEdge`` and of our own; mm's width comes first."""
    how = dict(
        interpolation=step.get('interpolation', 'bilinear'),
        antialias=step.get('backend') == 'pillow',  # OpenCV's does not smooth.
    )
    if kind == 'ResizeEdge' and step.get('edge', 'short') == 'short':
        return dict(mode='short_edge', edge=step.scale, **how)
    if kind == 'ResizeEdge' or not step.get('scale'):
        problem = f'{kind} with {step.to_dict()} is no rule that apps could repeat'
        raise UserError('test_dataloader.dataset.pipeline', problem, 'set scale=(width, height)')
    kept = 'inside' if kind == 'ResizeInside' else 'sides'
    mode = kept if step.get('keep_ratio') else 'stretch'
    return dict(mode=mode, size=list(pair(step.scale)[::-1]), **how)


def save(file: Path, info: dict[str, Any]) -> None:
    """Stores metadata: in an ONNX file itself, otherwise beside the file as ``FILE.json``.

    Beside an ONNX file it writes ``example.py`` and :mod:`~mmiformer.deploy.postprocess`, which run it
    without torch; other or edited files of these names are kept.
    """
    if file.suffix != '.onnx':
        atomic_write(beside(file), json.dumps(info, indent=2, ensure_ascii=False) + '\n')
        return
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, {_KEY: json.dumps(info, ensure_ascii=False)})
    with replacing(file) as part:
        onnx.save(model, part)
    for source in (Path(postprocess.__file__), _HERE / 'example.py'):
        target = file.parent / source.name
        if target.is_file() and target.read_bytes() != source.read_bytes():
            print(f'{target} is another file, or was edited, and is kept; see {source}')
        else:
            shutil.copyfile(source, target)


def load(file: Path) -> dict[str, Any] | None:
    """Reads the metadata of a file; None if it has none.

    Raises:
        UserError: If they are broken.
    """
    if file.suffix == '.onnx':
        import onnx

        stored = {p.key: p.value for p in onnx.load(file, load_external_data=False).metadata_props}
        source, text = file, stored.get(_KEY)
    else:
        source = beside(file)
        text = source.read_text(encoding='utf-8', errors='replace') if source.is_file() else None
    if text is None:
        return None
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    if not isinstance(info, dict) or not info.keys() >= _NEEDED:
        raise UserError(source, 'its metadata are not complete', 'export it again, or name its --config')
    return info


def beside(file: Path) -> Path:
    """The file that holds the metadata of one that cannot."""
    return file.with_name(f'{file.name}.json')
