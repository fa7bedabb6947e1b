"""Writing the drawn data sets to disk."""

from pathlib import Path
from types import ModuleType

import pytest

from mmiformer.datasets.toy import ade, coco
from mmiformer.utils.errors import UserError


@pytest.fixture(params=[coco, ade], ids=['coco', 'ade'])
def module(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_existing_data_is_kept(module: ModuleType, tmp_path: Path) -> None:
    root = module.TOY_DATA.make(tmp_path / 'data', num_train=2, num_val=1)
    before = {p: p.stat().st_mtime_ns for p in root.rglob('*')}
    assert module.TOY_DATA.make(root, num_train=2, num_val=1) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob('*')} == before


def test_other_arguments_replace_the_data(module: ModuleType, tmp_path: Path) -> None:
    root = module.TOY_DATA.make(tmp_path / 'data', num_train=3, num_val=1)
    module.TOY_DATA.make(root, num_train=2, num_val=1)
    assert len(list(root.rglob('*.jpg'))) == 3
    assert [p.name for p in tmp_path.iterdir()] == ['data']


def test_another_data_set_replaces_the_data(tmp_path: Path) -> None:
    alone = content(ade.TOY_DATA.make(tmp_path / 'alone', num_train=1, num_val=1))
    root = coco.TOY_DATA.make(tmp_path / 'data', num_train=1, num_val=1)
    assert content(ade.TOY_DATA.make(root, num_train=1, num_val=1)) == alone


@pytest.mark.parametrize('former', [False, True])
def test_an_interrupted_run_leaves_the_folder_as_it_was(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, former: bool
) -> None:
    root = tmp_path / 'new' / 'data'
    if former:
        module.TOY_DATA.make(root, num_train=1, num_val=1)
    before = content(root)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'write_image', interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.TOY_DATA.make(root, num_train=5, num_val=1)
    assert content(root) == before
    assert [p.name for p in root.parent.iterdir()] == (['data'] if former else [])


def test_other_files_are_never_replaced(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / 'mine.json').write_text('{}')
    with pytest.raises(UserError, match='something other than demo data'):
        module.TOY_DATA.make(tmp_path, num_train=1, num_val=1)
    assert content(tmp_path) == {'mine.json': b'{}'}
