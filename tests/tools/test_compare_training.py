def test_a_classifier(root, run_tool, tmp_path):
    """The second call trains nothing."""
    options = ['--demo', '--iterations', 2, '--seeds', 4, '--out', tmp_path, '--cfg-options']
    options += ['train_dataloader.batch_size=8', 'test_dataloader.dataset.indices=16']
    config = root / 'configs/classification/iformer_t_in1k.py'
    code, out, error = run_tool('compare_training', config, *options)
    assert code == 0, error
    assert '| `iformer_t_in1k` | 2 |' in out and '| top-1 |' in out
    made = {file: file.stat().st_mtime_ns for file in tmp_path.rglob('*.pth')}
    assert len(made) == 1
    again = run_tool('compare_training', config, *options)[1]
    assert again[again.index('|') :] == out[out.index('|') :]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob('*.pth')} == made


def test_mistakes(root, run_tool, tmp_path):
    config = root / 'configs/classification/iformer_t_in1k.py'
    code, _, error = run_tool('compare_training', config, config, '--demo', '--out', tmp_path)
    assert code == 1 and error.startswith('error: CONFIG: two of the configs have the same file name')
