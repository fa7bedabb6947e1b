"""The configs that come with mmiformer, by name."""

import difflib
from pathlib import Path

from mmengine.config import Config

from mmiformer.tasks import TASKS
from mmiformer.utils.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# Configs, tools and metafiles: where OpenMMLab's tools look for them, or in a checkout that is not installed.
MIM = _PACKAGE / '.mim' if (_PACKAGE / '.mim').is_dir() else _PACKAGE.parent

# Folders of configs, by the names of tasks.
FOLDERS = {task.name: task.folder for task in TASKS.values()}


def config_files() -> dict[str, Path]:
    """All configs by name, the examples for data of one's own among them.

    Raises:
        UserError: If mmiformer is not installed with its configs.
    """
    if not (MIM / 'configs').is_dir():
        raise UserError(
            MIM / 'configs',
            'not found, since this mmiformer was copied without its configs',
            'pip install it, or run it from a whole checkout',
        )
    return {
        file.stem: file
        for folder in FOLDERS.values()
        for file in sorted((MIM / 'configs' / folder).glob('*.py'))
    }


def config_file(name: str) -> Path:
    """The file of a config.

    Args:
        name: E.g. ``'maskrcnn_iformer_m_coco'``; or the path of a config of one's own.

    Raises:
        UserError: If there is none; near names are given.
    """
    if name.endswith('.py'):
        return Path(name)
    files = config_files()
    if name not in files:
        near = ' or '.join(difflib.get_close_matches(name, files, 3, 0.6))
        raise UserError(
            f"config '{name}': not one of the {len(files)} of mmiformer"
            + (f'; did you mean {near}?' if near else '; mmiformer.apis.configs.config_files() lists them.')
        )
    return files[name]


def allow_own_bases() -> None:
    """Lets ``_base_ = 'mmiformer::detection/maskrcnn_iformer_m_coco.py'`` be read as a file of ours.

    mmengine knows a fixed list of packages, and offers no other way to add one than to replace this method;
    it would give all that is in such a base the scope ``mmiformer``, where no detector is registered. For
    the command lines, which call it first; doing it twice changes nothing more.
    """
    theirs = Config._get_cfg_path
    if getattr(theirs, '__module__', '') == __name__:
        return

    def get_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, _, path = cfg_path.partition('::')
        if package != 'mmiformer' or not path:
            return theirs(cfg_path, filename)
        if not (MIM / 'configs' / path).is_file():
            raise UserError(
                filename,
                f"_base_ = '{cfg_path}' is no config of mmiformer",
                "expected e.g. 'mmiformer::detection/maskrcnn_iformer_m_coco.py'",
            )
        return str(MIM / 'configs' / path), None

    Config._get_cfg_path = staticmethod(get_path)
