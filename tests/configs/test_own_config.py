"""The examples of docs/own_config.md, as printed."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

TEXT = (Path(__file__).parents[2] / 'docs/own_config.md').read_text(encoding='utf-8')
EXAMPLES = re.findall(r"```python\n(_base_ = '(\w+)::.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(('text', 'toolbox'), EXAMPLES, ids=lambda value: value if '\n' not in value else '')
def test_example_builds_and_runs(text, toolbox, tmp_path):
    file = tmp_path / 'own.py'
    file.write_text(text)
    try:
        cfg = Config.fromfile(file)
    except ModuleNotFoundError:
        assert toolbox == 'mmseg'
        pytest.skip("mmengine does not find this line's mmseg")
    init_default_scope(cfg.default_scope)
    if isinstance(cfg.model.backbone.get('init_cfg'), dict):
        cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        features = model.extract_feat(torch.rand(1, 3, 64, 64))
        if toolbox == 'mmdet':
            assert [f.shape[1:] for f in features] == [(256, side, side) for side in (16, 8, 4, 2, 1)]
        elif toolbox == 'mmseg':
            assert model.decode_head(features).shape == (1, 150, 16, 16)
        else:
            assert model.head(features).shape == (1, 1000)


def test_all_toolboxes_have_an_example():
    assert [toolbox for _, toolbox in EXAMPLES] == ['mmdet', 'mmseg', 'mmpretrain']
