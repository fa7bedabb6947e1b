import copy

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

from mmiformer import IFormer
from mmiformer.deploy import fold
from mmiformer.utils.errors import UserError

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PIXELS = dict(data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True))
CLASSES = 5


@MODELS.register_module()
class Oracle(BaseModel):
    """A teacher that records its calls."""

    calls: list[dict] = []

    def __init__(self, num_classes: int = CLASSES, mean=MEAN, std=STD, to_rgb: bool = True, **kwargs) -> None:
        preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', mean=mean, std=std, to_rgb=to_rgb)
        super().__init__(data_preprocessor=preprocessor)
        self.norm = torch.nn.BatchNorm2d(3)
        self.linear = torch.nn.Linear(3, num_classes)

    def forward(self, inputs: torch.Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        logits = self.linear(self.norm(inputs).mean((2, 3)) * 20)
        self.calls.append(
            dict(
                inputs=inputs.clone(),
                logits=logits.float(),
                training=self.training,
                grad=logits.requires_grad,
                trainable=[n for n, p in self.named_parameters() if p.requires_grad],
                autocast=torch.is_autocast_enabled('cpu'),
                mode=mode,
            )
        )
        return logits


@pytest.fixture(autouse=True)
def _calls() -> None:
    init_default_scope('mmpretrain')
    Oracle.calls.clear()


def student(**changes) -> BaseModel:
    cfg = dict(
        type='mmiformer.models.heads.distillation.DistilledClassifier',
        data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True, num_classes=CLASSES),
        backbone=dict(type='IFormer', arch='t'),
        head=dict(
            type='mmiformer.models.heads.head.NormLinearClsHead',
            num_classes=CLASSES,
            in_channels=256,
            num_heads=2,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
        ),
        teacher=dict(type='Oracle'),
    )
    model = MODELS.build(copy.deepcopy({**cfg, **changes}))
    model.init_weights()
    return model


def batch(mixed: bool = True) -> tuple[torch.Tensor, list[DataSample]]:
    inputs = torch.randn(6, 3, 32, 32)
    samples = []
    for i in range(6):
        sample = DataSample().set_gt_label(i % CLASSES)
        if mixed:
            sample.set_gt_score(torch.rand(CLASSES).softmax(0))
        samples.append(sample)
    return inputs, samples


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize(
    'options',
    [{}, dict(distillation='soft', temperature=3.0, weight=0.25), dict(distillation='soft'), dict(weight=1)],
    ids=str,
)
def test_losses_against_their_definition_in_double_precision(options, mixed):
    model = student(**options)
    inputs, samples = batch(mixed)
    losses = {k: v.detach() for k, v in model.loss(inputs, samples).items()}
    # The student is in training mode: the same batch gives the same logits.
    own, taught = (x.detach().double().numpy() for x in model.head.each_forward(model.extract_feat(inputs)))
    answer = Oracle.calls[0]['logits'].double().numpy()
    truth = np.stack([s.gt_score.numpy() if mixed else np.eye(CLASSES)[int(s.gt_label)] for s in samples])
    smooth = truth * 0.9 + 0.1 / CLASSES
    label = -(smooth * log_softmax(own)).sum(1).mean()
    if options.get('distillation') == 'soft':
        t = options.get('temperature', 1.0)
        p, q = log_softmax(answer / t), log_softmax(taught / t)
        teacher = (np.exp(p) * (p - q)).sum() * t * t / q.size
    else:
        teacher = -log_softmax(taught)[range(6), answer.argmax(1)].mean()
    weight = options.get('weight', 0.5)
    assert set(losses) == {'loss_label', 'loss_teacher'}
    assert float(losses['loss_label']) == pytest.approx((1 - weight) * label, rel=1e-5)
    assert float(losses['loss_teacher']) == pytest.approx(weight * teacher, rel=1e-5)


def test_the_teacher_is_frozen_and_no_submodule():
    model = student()
    before = model.state_dict().keys()
    assert not Oracle.calls and model._teacher is None, 'built at the first step'
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(2):
        inputs, samples = batch()
        sum(model.loss(inputs, samples).values()).backward()
        optimizer.step()
        model.train()  # As every epoch does.
    teacher = model._teacher.model
    for call in Oracle.calls:
        assert not call['training'] and not call['grad'] and not call['trainable'] and not call['autocast']
        assert call['mode'] == 'tensor'
    assert torch.equal(teacher.norm.running_mean, torch.zeros(3))
    assert model.state_dict().keys() == before
    theirs = {id(p) for p in teacher.parameters()}
    assert not theirs & {id(p) for p in model.parameters()}
    assert teacher not in list(model.modules())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('to_rgb', [True, False])
def test_the_teacher_sees_the_same_images_with_its_own_normalisation(to_rgb):
    mean, std = [100.0, 120.0, 140.0], [50.0, 60.0, 70.0]
    model = student(teacher=dict(type='Oracle', mean=mean, std=std, to_rgb=to_rgb))
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)  # BGR, as loaded.
    inputs, samples = model.data_preprocessor(dict(inputs=images, data_samples=batch(False)[1])).values()
    model.loss(inputs, samples)
    seen = images.flip(1) if to_rgb else images
    expected = (seen.double() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(Oracle.calls[0]['inputs'].double(), expected, rtol=1e-5, atol=1e-5)


def test_an_untrained_teacher_is_reproducible_and_does_not_change_the_random_state():
    answers, draws = [], []
    for _ in range(2):
        torch.manual_seed(3)
        model = student()
        inputs, samples = batch()
        model.loss(inputs, samples)
        answers.append(Oracle.calls[-1]['logits'])
        draws.append(torch.rand(4))
    assert torch.equal(*answers) and torch.equal(*draws)
    torch.manual_seed(4)
    model = student(teacher=dict(type='Oracle'))
    model.loss(inputs, samples)
    assert torch.equal(answers[0], Oracle.calls[-1]['logits']), 'it does not depend on the seed'


def test_a_timm_teacher_has_its_own_normalisation_and_keeps_its_weights(tmp_path):
    timm = pytest.importorskip('timm')
    # A network that timm would initialise anew when mmengine calls its init_weights.
    net = timm.create_model('test_vit', num_classes=CLASSES)
    torch.nn.init.normal_(net.head.weight)
    torch.save(net.state_dict(), tmp_path / 'vit.pth')
    teacher = dict(
        type='TimmClassifier',
        model_name='test_vit',
        num_classes=CLASSES,
        checkpoint_path=str(tmp_path / 'vit.pth'),
    )
    model = student(teacher=teacher)
    size = net.pretrained_cfg['input_size'][1]
    inputs = torch.randn(2, 3, size, size)
    model.loss(inputs, batch()[1][:2])
    inner = model._teacher.model.model
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in inner.state_dict().items())
    assert net.pretrained_cfg['mean'] == (0.5, 0.5, 0.5)
    images = inputs * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    with torch.no_grad():
        expected = net.eval()((images / 255 - 0.5) / 0.5)
    torch.testing.assert_close(model._teacher(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('wanted', [False, True])
def test_autocast_of_the_teacher_is_its_own(wanted):
    with torch.autocast('cpu', enabled=not wanted):
        student(teacher_autocast=wanted).loss(*batch())
    assert [call['autocast'] for call in Oracle.calls] == [wanted]


def test_a_file_must_fill_every_weight_of_the_teacher(tmp_path):
    head = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=512)
    neck = dict(type='GlobalAveragePooling')
    net = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18), neck=neck, head=head, **PIXELS)
    weights = MODELS.build(copy.deepcopy(net)).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'whole.pth')
    torch.save(dict(state_dict={k: v for k, v in weights.items() if 'fc' not in k}), tmp_path / 'part.pth')
    model = student(
        teacher=dict(net, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth')))
    )
    model.loss(*batch())
    filled = model._teacher.model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in filled.items())
    with pytest.raises(UserError, match=r'model.teacher \(ImageClassifier\): .*part.pth: .*fc'):
        part = dict(type='Pretrained', checkpoint=str(tmp_path / 'part.pth'))
        student(teacher=dict(net, init_cfg=part)).loss(*batch())
    torch.save(IFormer('s').state_dict(), tmp_path / 's.pth')
    backbone = dict(
        type='IFormer', arch='t', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 's.pth'))
    )
    with pytest.raises(UserError, match=r"model.teacher \(ImageClassifier\): .*s.pth.*arch='t'"):
        student(teacher=dict(type='ImageClassifier', backbone=backbone, **PIXELS)).loss(*batch())


def test_copies_have_no_teacher():
    model = student()
    model.loss(*batch())
    assert model._teacher is not None
    assert copy.deepcopy(model)._teacher is None and fold(model)._teacher is None


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(distillation='medium'), "distillation='medium': expected 'hard' or 'soft'"),
        (dict(head=dict(type='LinearClsHead', num_classes=5, in_channels=256)), 'needs two classifiers'),
    ],
)
def test_bad_arguments(changes, words):
    with pytest.raises(UserError, match=words):
        student(**changes)


@pytest.mark.parametrize(
    ('teacher', 'words'),
    [
        (
            dict(type='Oracle', num_classes=7),
            r'model.teacher \(Oracle\): its output is \(6, 7\), that of model.head \(6, 5\)',
        ),
        (dict(type='Oracle', mean=None), 'its normalisation of images or that of the student is unknown'),
    ],
)
def test_a_teacher_that_does_not_fit_is_an_error_at_the_first_step(teacher, words):
    model = student(teacher=teacher)
    model.eval().predict(batch()[0])  # Needs no teacher.
    with pytest.raises(UserError, match=words):
        model.train().loss(*batch())
