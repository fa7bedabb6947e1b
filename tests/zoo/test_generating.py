import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mmiformer.zoo import generating
from mmiformer.zoo.published import DOWNSTREAM, IMAGENET

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def generated() -> dict[Path, str]:
    return generating.generate(ROOT)


def test_committed_files_equal_the_generated_ones(generated):
    """Configs of the peers, metafiles, and the tables of README and docs, byte for byte."""
    assert len(generated) > 30
    for file, text in generated.items():
        assert file.read_bytes() == text.encode(), f'{file}: run python tools/generate.py'


def test_published_accuracies_are_typed_once(generated):
    figures = {row.value for row in IMAGENET if row.family in ('iFormer', 'MoCoViT', 'GhostNet')}
    figures |= {value for row in DOWNSTREAM for value in row.figures().values()}
    pattern = re.compile(
        r'(?<![\d.])(' + '|'.join(re.escape(f'{v:.1f}') for v in figures if v) + r')(?!\d|\.\d)'
    )
    if not (ROOT / '.git').exists():
        pytest.skip('not a checkout')
    names = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True).stdout.split()
    checked = []
    for name in names:
        file = ROOT / name
        # Tests state the expected figures; figures that were measured here may be equal by chance.
        own = name.startswith(('tests/', 'mmiformer/zoo/published.py', 'docs/own_', 'docs/benchmark/'))
        if own or not name.endswith(('.md', '.py', '.yml')) or (file in generated and file.suffix != '.md'):
            continue
        checked.append(name)
        text = generating.BLOCK.sub('', file.read_text(encoding='utf-8'))
        found = [line for line in text.splitlines() if pattern.search(line)]
        assert not found, f'{name}: {found[0]}'
    assert 'README.md' in checked and 'mmiformer/apis/hub.py' in checked
    assert pattern.search('reaches 80.4 %') and not pattern.search('torch 2.80.4')


def test_light_heads_take_a_small_part_of_the_multiply_adds(generated):
    rows = re.findall(r'\[`(\w+)_ade20k`\].*\| (\d+)% \|', generated[ROOT / 'docs/segmentation.md'])
    shares = {name: int(share) for name, share in rows}
    assert shares['lraspp_iformer_m'] <= 15
    assert max(shares[f'segformer_iformer_{arch}'] for arch in 'tsm') <= 40


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_metafiles_are_valid_and_list_every_config(task):
    modelindex = pytest.importorskip('modelindex')
    content = yaml.safe_load((ROOT / 'configs' / task / 'metafile.yml').read_text())
    configs = [model['Config'] for model in content['Models']]
    examples = ('_bccd', '_camvid', '_cells')
    there = [f for f in (ROOT / 'configs' / task).glob('*.py') if not f.stem.endswith(examples)]
    assert sorted(configs) == sorted(str(f.relative_to(ROOT)) for f in there)
    index = modelindex.load(str(ROOT / 'configs' / task / 'metafile.yml'))
    index.build_models_with_collections()
    assert not index.check(silent=True)
    assert len(index.models) == len(configs)
    collections = {c['Name'] for c in content['Collections']}
    assert {m['In Collection'] for m in content['Models']} == collections
