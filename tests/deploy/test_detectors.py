from pathlib import Path

import pytest
import torch
from helpers import SMALL_IFORMER
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmiformer.deploy import metadata, postprocess
from mmiformer.deploy.comparing import EQUAL, match_detections
from mmiformer.deploy.detectors import MaskRCNNWrapper, RetinaNetWrapper
from mmiformer.deploy.rtmdet import RTMDetWrapper
from mmiformer.deploy.runtimes import RUNTIMES, ExportOptions
from mmiformer.deploy.runtimes.onnx import halved
from mmiformer.ops.layers import use_torch_roi_align
from mmiformer.utils.errors import UserError

FOLDER = Path(__file__).parents[2] / 'configs/detection'
SIZES = [(160, 256), (97, 131), (224, 224)]
KINDS = {
    'retinanet_mocovit_coco': (RetinaNetWrapper, 'model.bbox_head.retina_cls.bias'),
    'maskrcnn_iformer_t_coco': (MaskRCNNWrapper, 'model.roi_head.bbox_head.fc_cls.bias'),
    'rtmdetins_iformer_t_coco': (RTMDetWrapper, 'model.bbox_head.rtm_cls'),
}


def config(name: str) -> Config:
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    cfg.model.backbone.pop('init_cfg')
    if cfg.model.backbone.type == 'IFormer':
        cfg.model.backbone.arch = SMALL_IFORMER
        cfg.model.neck.in_channels = [SMALL_IFORMER['dims'][i] for i in cfg.model.backbone.out_indices]
    if cfg.model.type == 'RTMDet':  # Less to trace: others have windows.
        cfg.model.backbone.window_size = None
        cfg.model.bbox_head.stacked_convs = 1
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
    rtm_cls=(0.8, -4),
    rtm_reg=(1, 2),
    rtm_kernel=(0.5, 0),
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
        for name in SPREAD.keys() & set(key.split('.')):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                spread_out(layer, *SPREAD[name])
    predict(model, image(*SIZES[0]))
    return model


def sample_of(batch: torch.Tensor, scale: float = 1.0):
    """The data sample of an image that was scaled to the size of the batch."""
    from mmdet.structures import DetDataSample

    shape = tuple(batch.shape[2:])
    ori_shape = tuple(round(side / scale) for side in shape)
    return DetDataSample(metainfo=dict(img_shape=shape, ori_shape=ori_shape, scale_factor=(scale, scale)))


def predict(model: nn.Module, batch: torch.Tensor, scale: float = 1.0):
    with torch.no_grad():
        return model.predict(batch, [sample_of(batch, scale)], rescale=scale != 1)[0].pred_instances


def fitting(sizes: list[tuple[int, int]], wrapper: nn.Module) -> list[tuple[int, int]]:
    """The sizes rounded up to what a network takes."""
    return [tuple(-(-side // wrapper.divisor) * wrapper.divisor for side in size) for size in sizes]


PREPROCESSOR = dict(mean=[0, 0, 0], std=[1, 1, 1], bgr_to_rgb=True)
PIPELINE = [dict(type='LoadCheckedImage'), dict(type='PackDetInputs')]


def run(wrapper: nn.Module, batch: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(wrapper(batch))


def share(ours: list[torch.Tensor], theirs: list[torch.Tensor], *equal: float) -> float:
    """Smaller share of the detections of one that are also in the other."""
    # Masks as probabilities, where they are logits.
    ours, theirs = ([*d[:3], *(m.sigmoid() if m.min() < 0 else m for m in d[3:])] for d in (ours, theirs))
    same = match_detections(ours, theirs, *equal)
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
    for size in fitting(SIZES, wrapper):
        batch = image(*size)
        theirs, ours = predict(model, batch), run(wrapper, batch)
        assert len(theirs.bboxes) > 10
        assert len(ours[0]) == len(theirs.bboxes)
        assert share(ours[:3], [theirs.bboxes, theirs.labels, theirs.scores]) > 0.95
        assert (ours[2].diff() <= 0).all(), 'best first'


def finished(
    model, wrapper: nn.Module, outputs: list[torch.Tensor], scale: float = 1.0
) -> list[torch.Tensor]:
    """The detections in the image, of which the input of a wrapper is a scaled one."""
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(test_cfg=model.test_cfg, data_preprocessor=PREPROCESSOR),
            test_dataloader=dict(dataset=dict(pipeline=PIPELINE)),
        )
    )
    info = metadata.describe(cfg, wrapper, False, {})
    height, width = SIZES[0]
    info = dict(metadata.of_input(info), resize=dict(mode='stretch', size=[height, width]))
    size = round(height / scale), round(width / scale)
    found = postprocess.finish([output.numpy() for output in outputs], *size, info)
    return [torch.from_numpy(found[name]) for name in ('boxes', 'labels', 'scores', 'masks') if name in found]


def test_predictions_in_the_image_file_equal_mmdets(kind):
    model, wrapper, _ = kind
    batch = image(*SIZES[0])
    # mmdet runs the folded copy with the same RoIAlign, so that boxes and their order are equal.
    use_torch_roi_align(wrapper.model)
    theirs = predict(wrapper.model, batch, 0.8)
    ours = finished(model, wrapper, run(wrapper, batch), 0.8)
    assert share(ours[:3], [theirs.bboxes, theirs.labels, theirs.scores]) > 0.95
    if len(wrapper.outputs) > 3:
        assert ours[3].shape == theirs.masks.shape
        both, either = ours[3] & theirs.masks, ours[3] | theirs.masks
        assert both.sum() > 1000 and both.sum() / either.sum() > 0.999


def test_candidates_become_the_same_detections(kind):
    model, wrapper, _ = kind
    if not isinstance(wrapper, RTMDetWrapper):
        with pytest.raises(UserError, match='use --to onnx or openvino, or --what backbone'):
            wrapper.without_suppression(None)
        return
    batch = image(*SIZES[0])
    expected = finished(model, wrapper, run(wrapper, batch))
    for limit, cells in ((None, 20 * 32 + 10 * 16 + 5 * 8), (400, 400)):
        candidates = wrapper.without_suppression(limit)
        outputs = run(candidates, batch)
        assert outputs[0].shape == (1, cells, 4) and outputs[1].shape == (1, cells, 80)
        found = finished(model, candidates, outputs)
        assert share([part.float() for part in found], [part.float() for part in expected]) > 0.95


@pytest.mark.slow
def test_onnx_file_has_standard_operators_and_any_size(kind, file):
    onnx = pytest.importorskip('onnx')
    _, wrapper, _ = kind
    graph = onnx.load(file)
    assert [(o.domain, o.version) for o in graph.opset_import] == [('', 20)]
    assert {node.domain for node in graph.graph.node} == {''} and not graph.functions
    detect = session(file)
    for size in fitting([*SIZES, (64, 64), (300, 320)], wrapper):
        batch = image(*size)
        ours, theirs = run(wrapper, batch), detect(batch)
        assert [(t.shape, t.dtype) for t in theirs] == [(o.shape, o.dtype) for o in ours]
        assert share(theirs, ours) > 0.95


@pytest.mark.slow
def test_fp16_file_computes_boxes_in_fp32(kind, file):
    onnx = pytest.importorskip('onnx')
    _, wrapper, _ = kind
    batch, half = image(*fitting(SIZES[1:2], wrapper)[0]), halved(onnx.load(file))
    stored = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    types = {stored[name] for name, _ in wrapper.named_parameters() if name in stored}
    assert types == {onnx.TensorProto.FLOAT16}
    assert share(session(half.SerializeToString())(batch), run(wrapper, batch), *EQUAL['fp16']) > 0.95


@pytest.mark.slow
def test_no_detections(kind, file):
    onnx = pytest.importorskip('onnx')
    _, wrapper, bias = kind
    batch = image(*fitting(SIZES[1:2], wrapper)[0])
    graph = onnx.load(file)
    before = {k: v.clone() for k, v in wrapper.state_dict().items() if k.startswith(bias) and v.dim() == 1}
    for name in before:
        parameter = wrapper.get_parameter(name)
        parameter.data -= 1e3
        if name.endswith('fc_cls.bias'):
            parameter.data[-1] = 0  # the background
        (stored,) = (t for t in graph.graph.initializer if t.name == name)
        stored.CopyFrom(onnx.numpy_helper.from_array(parameter.detach().numpy(), name))
    ours = run(wrapper, batch)
    wrapper.load_state_dict(before, strict=False)
    assert [tuple(t.shape[:2]) for t in ours[:3]] == [(0, 4), (0,), (0,)] and not any(map(len, ours))
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
