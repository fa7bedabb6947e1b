"""The rewriting of a segmentor's last steps in ONNX gives the same labels."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

from mmiformer.deploy.runtimes import RUNTIMES, ExportOptions  # noqa: E402


class Labels(nn.Module):
    outputs, batched = ('labels',), True

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.conv, self.align_corners = nn.Conv2d(3, 7, 3, 2, 1), align_corners

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        logits = F.interpolate(
            self.conv(image), image.shape[2:], mode='bilinear', align_corners=self.align_corners
        )
        return (logits.argmax(dim=1),)


@pytest.mark.parametrize('dynamic', [False, True])
@pytest.mark.parametrize('align_corners', [False, True])
def test_labels_are_those_of_torch(tmp_path, dynamic, align_corners):
    net, runtime, file = Labels(align_corners).eval(), RUNTIMES['onnx'], tmp_path / 'net.onnx'
    runtime.export(net, ExportOptions(torch.rand(1, 3, 32, 48), dynamic), file)
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    assert kinds.index('Transpose') < kinds.index('Resize') < kinds.index('ArgMax')
    onnx.checker.check_model(onnx.load(file), full_check=True)
    for shape in ((1, 3, 32, 48), (2, 3, 41, 35))[: 2 if dynamic else 1]:
        image = torch.rand(shape)
        (found,) = runtime.open(file)(image.numpy())
        assert found.shape == shape[:1] + shape[2:]
        assert np.mean(found == net(image)[0].numpy()) > 0.999
