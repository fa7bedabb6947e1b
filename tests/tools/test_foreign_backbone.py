"""A backbone and configs of a user."""

import shutil
from pathlib import Path

from helpers import SHORT

import mmiformer
from mmiformer.apis import configs
from mmiformer.zoo import entries, generating

FOONET = """
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module()
class FooNet(BaseModule):
    def __init__(self, width, init_cfg=None):
        super().__init__(init_cfg)
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.stages = nn.ModuleList(nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 2, 2) for i in range(3))

    def forward(self, x):
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return tuple(maps)
"""
CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['mmiformer', 'foonet'], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True, type='FooNet', width=16), neck=dict(in_channels=[16, 32, 64, 128]))
"""


def test_own_backbone_with_the_tools(root, run_tool, tmp_path, monkeypatch):
    base = str(root / 'configs/detection/maskrcnn_iformer_t_coco.py')
    config, work_dir = tmp_path / 'maskrcnn_foonet_coco.py', tmp_path / 'run'
    config.write_text(CONFIG.format(base=base))
    (tmp_path / 'foonet.py').write_text(FOONET)
    monkeypatch.syspath_prepend(tmp_path)

    def run(tool: str, *arguments: object) -> str:
        code, out, err = run_tool(tool, *arguments)
        assert code == 0, err
        return out

    run('train', config, '--demo', '--work-dir', work_dir, '--cfg-options', *SHORT)
    weights, saved = work_dir / 'iter_2.pth', work_dir / 'config.py'
    assert 'bbox_mAP' in run('test', saved, weights, '--work-dir', tmp_path / 'test')
    image = next(Path('data/demo/coco/val2017').iterdir())
    assert 'objects' in run('predict', image, saved, weights, '--out', tmp_path / 'seen.png')
    for what in ('backbone', 'model'):
        file = tmp_path / f'{what}.onnx'
        run('export', saved, weights, '--what', what, '--to', 'onnx', '--size', 64, 64, '--out', file)
        assert file.is_file()
    timed = run('benchmark', config, '--rounds', 3, '--seconds', 0.01, '--sizes', '64x64', '--no-memory')
    assert 'maskrcnn_foonet_coco' in timed
    model = mmiformer.get_model(str(config))
    assert type(model.backbone).__name__ == 'FooNet'


def test_own_configs_do_not_change_the_zoo(root, run_tool, tmp_path, monkeypatch):
    # Counting multiply-adds, which take half a minute, does not depend on them.
    monkeypatch.setattr(generating, 'count_macs', lambda *_: 1)
    monkeypatch.setattr(generating, '_cost', lambda network: (1, 1))
    before = [entry.name for entry in entries.entries()], generating.generate(root)
    shutil.copytree(root / 'configs', tmp_path / 'configs')
    own = dict(
        maskrcnn_foonet_coco='detection',
        centernet_iformer_m_coco='detection',
        foo_in1k='classification',
        fpn_foonet_ade20k='segmentation',
    )
    for name, folder in own.items():
        file = tmp_path / 'configs' / folder / f'{name}.py'
        file.write_text("_base_ = './maskrcnn_iformer_t_coco.py'\n")
    monkeypatch.setattr(configs, 'MIM', tmp_path)
    entries.entries.cache_clear()
    try:
        assert own.keys() <= configs.config_files().keys()
        assert ([entry.name for entry in entries.entries()], generating.generate(root)) == before
        code, out, err = run_tool('reproduce', '--dry-run', '--checkpoints', tmp_path)  # Finds none of them.
        assert code == 0 and 'fpn_iformer_m_ade20k' in out and not any(name in out for name in own), err
    finally:
        entries.entries.cache_clear()


def test_generate_checks_the_committed_files(root, run_tool, monkeypatch):
    readme = root / 'README.md'
    for text, code, words in (
        (readme.read_text(), 0, '1 files are up to date'),
        ('other', 1, 'README.md: differs from what is generated; run python tools/generate.py'),
    ):
        monkeypatch.setattr(generating, 'generate', lambda root, text=text: {readme: text})
        found, out, err = run_tool('generate', '--check')
        assert found == code and words in out + err
