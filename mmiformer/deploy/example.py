"""Runs an exported model without torch: ``python example.py MODEL.onnx IMAGE``.

It needs onnxruntime, numpy, Pillow and postprocess.py, which lies beside it.
"""

import json
import sys

import numpy as np
import onnxruntime
import postprocess  # type: ignore[import-not-found]
from PIL import Image, ImageOps


def resize(pixels: np.ndarray, height: int, width: int, rule: dict) -> np.ndarray:
    """Resizes as in training: smoothed by Pillow, or not, as OpenCV does."""
    if not rule['antialias']:
        return postprocess.resize_pixels(pixels, height, width, rule)
    method = Image.Resampling[rule['interpolation'].upper()]
    return np.asarray(Image.fromarray(pixels).resize((width, height), method))


session = onnxruntime.InferenceSession(sys.argv[1])
info = json.loads(session.get_modelmeta().custom_metadata_map['mmiformer'])
image = Image.open(sys.argv[2])
pixels = np.asarray((ImageOps.exif_transpose(image) if info['exif'] else image).convert('RGB'))
outputs = session.run(None, {'image': postprocess.prepare(pixels, info, resize)})
found = postprocess.finish(outputs, *pixels.shape[:2], info)
if info['task'] == 'det':
    for box, label, score in zip(found['boxes'], found['labels'], found['scores'], strict=True):
        if score >= 0.3:
            print(f'{info["classes"][label]} {score:.3f}', *box.round(1))
elif info['task'] == 'seg':
    for label, count in zip(*np.unique(found['label_map'], return_counts=True), strict=True):
        print(f'{info["classes"][label]} {count / found["label_map"].size:.1%}')
else:
    for label in found['probabilities'].argsort()[::-1][:5]:
        print(f'{info["classes"][label]} {found["probabilities"][label]:.3f}')
