import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmiformer.engine.resuming import _latest_intact, checkpoints_in, file_to_resume, last_checkpoint, resume
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import lock_folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('run').mkdir()


def save(name: str, seed: int = 7) -> None:
    torch.save(
        dict(
            state_dict={'w': torch.ones(1)},
            message_hub={},
            optimizer={},
            meta=dict(seed=seed, epoch=1, iter=2),
        ),
        Path('run', name),
    )


def config(**settings: object) -> Config:
    return Config(dict(work_dir='run', model=dict(), **settings))


def test_a_run_does_not_start_in_the_work_dir_of_another():
    assert file_to_resume(config(), None) is None
    assert file_to_resume(config(), 'auto') == 'auto'
    Path('run/best_epoch_3.pth').touch()
    Path('run/weights.pth').touch()
    assert file_to_resume(config(), None) is None
    Path('run/iter_10.pth').touch()
    with pytest.raises(
        UserError, match=r'run/iter_10\.pth: is a checkpoint of an earlier run; .* --resume, .* --work-dir'
    ):
        file_to_resume(config(), None)
    assert file_to_resume(config(), 'other.pth') == 'other.pth'


def test_resume_of_the_config_is_used():
    for settings, expected in (
        (dict(resume=True), 'auto'),
        (dict(resume=True, load_from=None), 'auto'),
        (dict(resume=True, load_from='a.pth'), 'a.pth'),
        (dict(resume=False, load_from='a.pth'), None),
    ):
        cfg = config(**settings)
        assert file_to_resume(cfg, None) == expected
        assert cfg.resume is False and cfg.get('load_from') == (None if expected else 'a.pth')
    assert file_to_resume(config(resume=True, load_from='a.pth'), 'b.pth') == 'b.pth'


def test_the_latest_checkpoint_of_a_copied_folder_is_found():
    for name, time in (('epoch_9.pth', 3), ('epoch_11.pth', 1), ('epoch_10.pth', 2)):
        save(name)
        os.utime(Path('run', name), (time, time))
    assert [file.name for file in checkpoints_in(Path('run'))] == [
        'epoch_11.pth',
        'epoch_10.pth',
        'epoch_9.pth',
    ]
    Path('elsewhere').mkdir()
    Path('elsewhere/epoch_10.pth').touch()
    mark = Path('run/last_checkpoint')
    mark.write_text(str(Path('elsewhere/epoch_10.pth').absolute()))
    assert last_checkpoint(Path('run')) == Path('run/epoch_10.pth'), 'of this run, not of the original'
    assert _latest_intact(Path('run')) == ('run/epoch_10.pth', 7)
    Path('run/epoch_10.pth').unlink()
    assert last_checkpoint(Path('run')) == Path('elsewhere/epoch_10.pth').absolute()
    for text in (b'\xff\xfe', b'x' * 300, b'a\0b', b''):
        mark.write_bytes(text)
        assert last_checkpoint(Path('run')) is None
        assert _latest_intact(Path('run')) == ('run/epoch_11.pth', 7)
    mark.unlink()
    mark.mkdir()
    assert _latest_intact(Path('run')) == ('run/epoch_11.pth', 7)


def test_a_resumed_run_keeps_its_seed(capsys):
    save('iter_2.pth')
    for own, warned in ((None, False), (7, False), (0, True)):
        cfg = config(randomness=dict(seed=own, deterministic=True))
        resume(cfg, 'auto')
        assert cfg.randomness == dict(seed=7, deterministic=True) and cfg.load_from == 'run/iter_2.pth'
        assert ('continues with the original seed 7, not 0' in capsys.readouterr().out) == warned


def test_a_folder_is_locked_until_its_run_ends():
    other = [
        sys.executable,
        '-c',
        'from pathlib import Path; from mmiformer.utils.files import lock_folder; '
        'lock = lock_folder(Path("run")); lock.__enter__(); print("held", flush=True); input()',
    ]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while process.stdout.readline() != 'held\n':
            assert process.poll() is None
        with pytest.raises(UserError, match='run: another run is using it'), lock_folder(Path('run')):
            pass
        process.kill()
    with lock_folder(Path('run')):
        pass
    with lock_folder(Path('run')):
        pass
