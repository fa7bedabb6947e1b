"""The configs of mmiformer, by name, and those that were saved with former names."""

import difflib
from pathlib import Path

from mmengine.config import Config

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


def config_file(name: str) -> Path:
    """The file of a config.

    Args:
        name: E.g. ``'maskrcnn_iformer_m_coco'``, or the path of another config.

    Raises:
        UserError: If there is none of that name; similar names are given.
    """
    if name.endswith('.py'):
        return Path(name)
    files = config_files()
    if name not in files:
        similar = ' or '.join(difflib.get_close_matches(name, files, 3, 0.6))
        raise UserError(
            f"config '{name}'",
            f'not one of the {len(files)} of mmiformer',
            f'did you mean {similar}?' if similar else 'mmiformer.apis.configs.config_files() lists them',
        )
    return files[name]


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
