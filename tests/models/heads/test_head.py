import golden
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmiformer.apis.cli import load_config
from mmiformer.checkpoints import load_weights
from mmiformer.deploy import fold
from mmiformer.models.layers import AveragedHeads, NormLinear
from mmiformer.utils.errors import UserError

HEAD = 'mmiformer.models.heads.head.NormLinearClsHead'


def classifier(root, name: str) -> nn.Module:
    init_default_scope('mmpretrain')
    cfg = load_config(str(root / f'configs/classification/{name}_in1k.py'))
    if 'teacher' in cfg.model:
        cfg.model.teacher = dict(type='Absent')  # It is not built outside of training.
    return MODELS.build(cfg.model).eval()


@pytest.mark.parametrize('case', ['cls_t', 'cls_m', 'cls_m_distill'])
def test_golden_logits_of_a_classifier_from_an_official_file(root, tmp_path, case):
    model = classifier(root, case.replace('cls_', 'iformer_'))
    file = tmp_path / f'{case}.pth'
    torch.save(dict(model=golden.state_dict(case)), file)
    load_weights(model, file)
    image = golden.image(case)
    folded = fold(model)
    with torch.no_grad():
        logits = model(image)
        assert golden.error(case, 'logits', logits) < 1e-4
        assert float((folded(image) - logits).norm() / logits.norm()) < 1e-5
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert len(folded.head.heads) == 1
    predicted = model.predict(image)
    for sample, row in zip(predicted, logits, strict=True):
        torch.testing.assert_close(sample.pred_score, row.softmax(0))
        assert int(sample.pred_label) == int(row.argmax())


def test_averaged_heads_fold_into_one_linear_layer():
    heads = AveragedHeads([NormLinear(16, 5), NormLinear(16, 5)])
    for head in heads:
        head.norm.running_mean.normal_()
        head.norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(head.norm.weight)
        nn.init.normal_(head.norm.bias)
    heads.eval()
    x = torch.randn(7, 16, dtype=torch.float64)
    exact = heads.double()(x).detach()
    folded = fold(heads.float())
    assert isinstance(folded, AveragedHeads) and len(folded) == 1 and len(heads) == 2
    torch.testing.assert_close(folded(x.float()).double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fold(folded)(x.float()), folded(x.float()))


@pytest.mark.parametrize(
    ('network', 'name', 'classes', 'words'),
    [
        ('cls_m', 'iformer_m', 3, r'size mismatch for head\.heads\.0\.linear\.weight.*1000.*3'),
        ('cls_m', 'iformer_m_distill', 1000, r'missing keys.*head\.heads\.1'),
        ('cls_m_distill', 'iformer_m', 1000, r'unexpected key.*head\.heads\.1'),
    ],
)
def test_another_classifier_is_an_error(root, tmp_path, network, name, classes, words):
    init_default_scope('mmpretrain')
    cfg = load_config(str(root / f'configs/classification/{name}_in1k.py'))
    cfg.model.head.num_classes = classes
    model = MODELS.build(cfg.model)
    file = tmp_path / 'official.pth'
    torch.save(dict(model=golden.state_dict(network)), file)
    with pytest.raises(UserError, match=f'official.pth: .*{words}'):
        load_weights(model, file)


def test_initial_weights_are_truncated_normal():
    init_default_scope('mmpretrain')
    head = MODELS.build(dict(type=HEAD, num_classes=1000, in_channels=384))
    head.init_weights()
    weight, bias = head.heads[0].linear.weight, head.heads[0].linear.bias
    assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.02) and not bias.any()
