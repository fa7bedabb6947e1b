from pathlib import Path

import pytest
import torch
from helpers import SMALL_IFORMER
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmiformer.deploy.comparing import match_detections
from mmiformer.deploy.detectors import MaskRCNNWrapper, RetinaNetWrapper
from mmiformer.deploy.runtimes import RUNTIMES, ExportOptions
from mmiformer.ops.layers import use_torch_roi_align
from mmiformer.utils.errors import UserError

FOLDER = Path(__file__).parents[2] / 'configs/detection'
SIZES = [(160, 256), (97, 131), (224, 224)]
KINDS = {
    'retinanet_mocovit_coco': (RetinaNetWrapper, 'model.bbox_head.retina_cls.bias'),
    'maskrcnn_iformer_t_coco': (MaskRCNNWrapper, 'model.roi_head.bbox_head.fc_cls.bias'),
}


def config(name: str) -> Config:
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    cfg.model.backbone.pop('init_cfg')
    if cfg.model.backbone.type == 'IFormer':
        cfg.model.backbone.arch = SMALL_IFORMER
        cfg.model.neck.in_channels = list(SMALL_IFORMER['dims'])
    test_cfg = cfg.model.test_cfg
    # Thin boxes at the border have equal features and scores, so that their order is undefined.
    test_cfg.get('rpn', test_cfg).update(nms_pre=100, max_per_img=60, min_bbox_size=4)
    test_cfg.get('rcnn', test_cfg).update(max_per_img=50)
    return cfg


def image(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width)


# Standard deviation and mean of the outputs of the layers before scores and boxes.
SPREAD = dict(
    retina_cls=(0.8, -4),
    retina_reg=(0.3, 0),
    rpn_cls=(2, 0),
    rpn_reg=(0.3, 0),
    fc_cls=(2, 0),
    fc_reg=(0.5, 0),
)


def spread_out(layer: nn.Module, deviation: float, mean: float) -> None:
    """Scales a layer, on its first call, so that its outputs have this deviation and mean."""

    def scale(layer, inputs, out):
        handle.remove()
        channels = out.movedim(1, -1).flatten(0, -2)
        factor = deviation / channels.std(0).mean()
        layer.weight.data *= factor
        layer.bias.data = (layer.bias.data - channels.mean(0)) * factor + mean
        return layer(*inputs)

    handle = layer.register_forward_hook(scale)


def build(name: str) -> nn.Module:
    """A detector whose scores are spread out, as after training, and whose boxes leave their anchors."""
    init_default_scope('mmdet')
    model = MODELS.build(config(name).model).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith('running_var'):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.normal_(float(key.endswith('weight')), 0.2)
    for key, layer in model.named_modules():
        if key.split('.')[-1] in SPREAD:
            spread_out(layer, *SPREAD[key.split('.')[-1]])
    predict(model, image(*SIZES[0]))
    return model


def predict(model: nn.Module, batch: torch.Tensor):
    from mmdet.structures import DetDataSample

    shape = tuple(batch.shape[2:])
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    with torch.no_grad():
        return model.predict(batch, [sample])[0].pred_instances


def run(wrapper: nn.Module, batch: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(wrapper(batch))


def share(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Smaller share of the detections of one that are also in the other."""
    same = match_detections(ours, theirs)
    return min(float(same.any(dim).float().mean()) for dim in (0, 1))


@pytest.fixture(scope='module', params=list(KINDS))
def kind(request):
    """Model, wrapper and name of a parameter that prevents detections if it is small."""
    torch.manual_seed(0)
    model = build(request.param)
    wrapper, bias = KINDS[request.param]
    return model, wrapper(model), bias


@pytest.fixture(scope='module')
def file(kind, tmp_path_factory):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    _, wrapper, _ = kind
    path = tmp_path_factory.mktemp('onnx') / 'detector.onnx'
    RUNTIMES['onnx'].export(wrapper, ExportOptions(image(*SIZES[0]), dynamic=True), path)
    return path


def session(content):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    opened = onnxruntime.InferenceSession(content, options)
    return lambda batch: [torch.from_numpy(a) for a in opened.run(None, {'image': batch.numpy()})]


def test_detections_equal_mmdets(kind):
    model, wrapper, _ = kind
    for size in SIZES:
        batch = image(*size)
        theirs, ours = predict(model, batch), run(wrapper, batch)
        assert len(theirs.bboxes) > 10
        assert len(ours[0]) == len(theirs.bboxes)
        assert share(ours[:3], [theirs.bboxes, theirs.labels, theirs.scores]) > 0.95
        assert (ours[2].diff() <= 0).all(), 'best first'


def test_masks_equal_mmdets(kind):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    model, wrapper, _ = kind
    if 'masks' not in wrapper.outputs:
        pytest.skip('no masks')
    batch = image(*SIZES[0])
    # mmdet runs the folded copy with the same RoIAlign, so that boxes and their order are equal.
    use_torch_roi_align(wrapper.model)
    theirs, (boxes, _, _, masks) = predict(wrapper.model, batch), run(wrapper, batch)
    assert masks.shape == (len(boxes), 28, 28)
    assert torch.equal(boxes, theirs.bboxes)
    pasted, _ = _do_paste_mask(masks[:, None], boxes, *SIZES[0], skip_empty=False)
    both, either = (pasted >= 0.5) & theirs.masks, (pasted >= 0.5) | theirs.masks
    assert both.sum() > 1000 and both.sum() / either.sum() > 0.999


@pytest.mark.slow
def test_onnx_file_has_standard_operators_and_any_size(kind, file):
    onnx = pytest.importorskip('onnx')
    _, wrapper, _ = kind
    graph = onnx.load(file)
    assert [(o.domain, o.version) for o in graph.opset_import] == [('', 20)]
    assert {node.domain for node in graph.graph.node} == {''} and not graph.functions
    detect = session(file)
    for size in (*SIZES, (64, 64), (300, 320)):
        batch = image(*size)
        ours, theirs = run(wrapper, batch), detect(batch)
        assert [(t.shape, t.dtype) for t in theirs] == [(o.shape, o.dtype) for o in ours]
        assert share(theirs, ours) > 0.95


@pytest.mark.slow
def test_no_detections(kind, file):
    onnx = pytest.importorskip('onnx')
    _, wrapper, bias = kind
    batch = image(*SIZES[1])
    graph = onnx.load(file)
    (stored,) = (t for t in graph.graph.initializer if t.name == bias)
    parameter = wrapper.get_parameter(bias)
    before = parameter.detach().clone()
    parameter.data -= 1e3
    if 'masks' in wrapper.outputs:
        parameter.data[-1] = 0  # the background
    stored.CopyFrom(onnx.numpy_helper.from_array(parameter.detach().numpy(), bias))
    ours = run(wrapper, batch)
    parameter.data.copy_(before)
    assert [tuple(t.shape) for t in ours] == [(0, 4), (0,), (0,), (0, 28, 28)][: len(ours)]
    theirs = session(graph.SerializeToString())(batch)
    assert [(t.shape, t.dtype) for t in theirs] == [(o.shape, o.dtype) for o in ours]


def test_unsupported_nms_is_an_error(kind):
    model, wrapper, _ = kind
    cfg = model.test_cfg.get('rcnn', model.test_cfg)
    cfg.nms.type = 'soft_nms'
    try:
        with pytest.raises(UserError, match="type 'nms'"):
            type(wrapper)(model)
    finally:
        cfg.nms.type = 'nms'
