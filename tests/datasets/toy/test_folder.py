"""How the miniature data sets come to be on disk; the same for each of them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mmiformer.datasets.toy import ade, coco, folder

Make = Callable[..., Path]


@pytest.fixture(params=[coco, ade], ids=['coco', 'ade'])
def module(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def make(module: ModuleType) -> Make:
    return {coco: coco.make_coco, ade: ade.make_ade}[module]


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def images(root: Path) -> int:
    return len(list(root.rglob('*.jpg')))


def test_second_call_makes_nothing(make: Make, tmp_path: Path) -> None:
    root = make(tmp_path / 'data', num_train=2, num_val=1)
    before = {p: p.stat().st_mtime_ns for p in root.rglob('*')}
    assert make(str(root), num_train=2, num_val=1) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob('*')} == before


def test_other_arguments_replace(make: Make, tmp_path: Path) -> None:
    root = make(tmp_path / 'data', num_train=3, num_val=1)
    make(root, num_train=2, num_val=1)
    assert images(root) == 3
    assert [p.name for p in tmp_path.iterdir()] == ['data']


def test_one_data_set_is_not_taken_for_another(tmp_path: Path) -> None:
    alone = content(ade.make_ade(tmp_path / 'alone', num_train=1, num_val=1))
    root = coco.make_coco(tmp_path / 'data', num_train=1, num_val=1)
    assert content(ade.make_ade(root, num_train=1, num_val=1)) == alone


@pytest.mark.parametrize('former', [False, True])
def test_interrupted_run_leaves_nothing(
    module: ModuleType, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, former: bool
) -> None:
    root = tmp_path / 'new' / 'data'
    if former:
        make(root, num_train=1, num_val=1)
    before = content(root)
    draw = module._draw

    def interrupted(seed: int, split: int, index: int):
        if index == 2:
            raise KeyboardInterrupt
        return draw(seed, split, index)

    monkeypatch.setattr(module, '_draw', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(root, num_train=5, num_val=1)
    assert content(root) == before
    assert [p.name for p in root.parent.iterdir()] == (['data'] if former else [])


def test_first_of_two_wins(tmp_path: Path) -> None:
    root = tmp_path / 'data'

    def write(text: str) -> Callable[[Path, dict], None]:
        def files(made: Path, parameters: dict) -> None:
            made.mkdir()
            (made / 'text').write_text(text)
            if text == 'slow':
                folder.make(root, write('fast'), 1, 0, 1, 1)

        return files

    assert folder.make(root, write('slow'), 1, 0, 1, 1) == root
    assert (root / 'text').read_text() == 'fast'
    assert [p.name for p in tmp_path.iterdir()] == ['data']


def test_foreign_folder_is_left_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations' / 'instances_train2017.json').write_text('{}')
    with pytest.raises(FileExistsError, match='something other than demo data'):
        make(tmp_path, num_train=1, num_val=1)
    assert content(tmp_path) == {'annotations/instances_train2017.json': b'{}'}


@pytest.mark.parametrize('wrong', [{'seed': -1}, {'num_train': 0}, {'num_val': 0}])
def test_bad_numbers(make: Make, tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match='seed >= 0'):
        make(tmp_path / 'data', **wrong)
