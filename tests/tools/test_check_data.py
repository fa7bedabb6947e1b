"""Checking a data set on the command line."""

import shutil
import subprocess
import sys

from mmiformer.datasets.toy.imagenet import TOY_DATA


def test_a_subset_passes_with_its_numbers(run_tool, real_data, monkeypatch):
    monkeypatch.setenv('MMIFORMER_DATA', str(real_data))
    code, out, err = run_tool('check_data', 'coco', '--decode')
    assert code == 0 and 'error: ' not in out + err
    number = len(list((real_data / 'coco/train2017').glob('*.jpg')))
    assert f'{number:,} of 118,287' in out and ' of 36,781' in out
    assert out.splitlines()[-1].startswith(f'{real_data / "coco"}: ')


def test_errors_have_the_number_of_files_and_the_first_names(run_tool, tmp_path):
    root = TOY_DATA.make(tmp_path / 'imagenet', num_train=60, num_val=6)
    for i in range(5):
        (root / f'train/n02708093/n02708093_{6 * i + 1}.JPEG').write_bytes(b'')
    code, out, _ = run_tool('check_data', 'imagenet', root)
    assert code == 1 and out.splitlines()[-1] == f'{root}: not usable'
    assert '6 of 1,000' in out and '60 of 1,281,167' in out
    assert f'error: {root / "val"}: has 6 class folders, expected 1000; ' in out
    (line,) = (line for line in out.splitlines() if 'Empty or' in line)
    assert 'in train: 5 (n02708093/n02708093_1.JPEG, ' in line
    assert line.count('.JPEG') == 3 and ', ...)' in line
    shutil.rmtree(root)
    code, out, err = run_tool('check_data', 'imagenet', root)
    assert (code, out) == (1, '') and err.startswith(f'error: {root}: no such folder')
    assert 'MMIFORMER_DATA to the folder that holds imagenet' in err and err.count('\n') == 1


def test_one_split_can_be_checked(run_tool, tmp_path):
    root = TOY_DATA.make(tmp_path / 'imagenet', num_train=6, num_val=6)
    shutil.rmtree(root / 'train')
    missing = f'error: {root / "train"}: not found'
    _, both, _ = run_tool('check_data', 'imagenet', root)
    assert missing in both and '6 of 50,000' in both
    _, val, _ = run_tool('check_data', 'imagenet', root, '--split', 'val')
    assert missing not in val and '6 of 50,000' in val and '1,281,167' not in val
    _, train, _ = run_tool('check_data', 'imagenet', root, '--split', 'train')
    assert missing in train and '50,000' not in train


def test_no_toolbox_is_needed(root, tmp_path):
    code = (
        'import runpy, sys; sys.modules.update(mmdet=None, mmseg=None, mmpretrain=None); '
        f"sys.argv = ['check_data.py', 'ade20k', {str(tmp_path)!r}]; "
        f'sys.path.insert(0, {str(root / "tools")!r}); '  # As for a script.
        "runpy.run_path(sys.path[0] + '/check_data.py', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert 'images/training: not found; unpack ADEChallengeData2016.zip' in result.stdout
