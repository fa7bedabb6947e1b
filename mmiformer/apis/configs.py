"""The configs of mmiformer, by name, and those that were saved with former names."""

import difflib
from pathlib import Path

from mmengine.config import Config

from mmiformer.checkpoints.released import RELEASED
from mmiformer.engine.resuming import best_checkpoint
from mmiformer.tasks import TASKS
from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# Parent of configs/ and tools/: the folder where OpenMMLab's tools look for them, or an uninstalled checkout.
MIM = _PACKAGE / '.mim' if (_PACKAGE / '.mim').is_dir() else _PACKAGE.parent

# Folders of configs, by the names of tasks.
FOLDERS = {task.name: task.folder for task in TASKS.values()}

_FORMER_MODULES = {
    'mmiformer.backbones.': 'mmiformer.models.backbones.',
    'mmiformer.classifiers.': 'mmiformer.models.heads.',
    'mmiformer.distributed.': 'mmiformer.engine.distributed.',
}


def config_files() -> dict[str, Path]:
    """All configs by name, including the examples for custom data."""
    folders = [MIM / 'configs' / folder for folder in FOLDERS.values()]
    return {file.stem: file for folder in folders for file in sorted(folder.glob('*.py'))}


def config_file(source: str | Path) -> Path:
    """The file of a config.

    Args:
        source: A name, e.g. ``'maskrcnn_iformer_m_coco'``, the path of a config, or a work dir.

    Raises:
        UserError: If there is none; names that are similar are given.
    """
    files, path = config_files(), Path(source)
    if str(source) in files:
        return files[str(source)]
    if path.is_dir():
        own = path / 'config.py'  # Of our runs; mmengine's are named after their config.
        candidates = [own] if own.is_file() else list(path.glob('*.py'))
        if len(candidates) == 1:
            return candidates[0]
        raise UserError(
            path, f'a work dir has one config, this folder has {len(candidates)}', 'name the config'
        )
    if path.is_file():
        return path
    similar = ' or '.join(difflib.get_close_matches(path.stem, files, 3, 0.6))
    raise UserError(
        f"config '{source}'",
        f'no such file, work dir, or name of one of the {len(files)} configs of mmiformer',
        f'did you mean {similar}?' if similar else 'mmiformer.list_models() lists them',
    )


def weights_of(source: str | Path) -> str:
    """The weights of a config: the best checkpoint of a work dir, else its last, or the released file.

    Args:
        source: A work dir, or the name of a config.

    Returns:
        Path or https address.

    Raises:
        UserError: If there are none.
    """
    if str(source) in RELEASED:
        return RELEASED[str(source)].url
    if Path(source).is_dir():
        if file := best_checkpoint(Path(source)):
            return str(file)
        raise UserError(source, 'has no checkpoint', 'train until one is written, or name a checkpoint')
    remedy = f'train it with tools/train.py {config_file(source)}, and name the checkpoint'
    raise UserError(source, 'no weights of the full model were released', remedy)


def allow_own_bases() -> None:
    """Makes mmengine read ``_base_ = 'mmiformer::detection/maskrcnn_iformer_m_coco.py'``.

    mmengine has a fixed list of packages, and gives everything in a base of another package that package's
    scope, in which no detector is registered. It can only be extended by replacing this method, so only our
    command lines do so. A second call changes nothing.
    """
    original = Config._get_cfg_path
    if getattr(original, '__module__', '') == __name__:
        return

    def get_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith('mmiformer::'):
            return str(MIM / 'configs' / cfg_path.removeprefix('mmiformer::')), None
        return original(cfg_path, filename)

    Config._get_cfg_path = staticmethod(get_path)


def rename_types(cfg: Config) -> None:
    """Replaces former module names in the types of a config, in place."""
    for _, part in walk(list(cfg.values())):
        for old, new in _FORMER_MODULES.items():
            if str(part.get('type')).startswith(old):
                part.type = new + part.type.removeprefix(old)
