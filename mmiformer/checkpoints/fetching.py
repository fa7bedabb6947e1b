"""Downloads of weight files: only over https, and only complete files get their name."""

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import wrap_file

from mmiformer.checkpoints.released import RELEASED
from mmiformer.utils.dist import first_process_first
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import replacing, sha256_of

_TIMEOUT = 60  # Seconds without a byte after which a connection counts as dead.
# torch and OpenMMLab write the start of a file's SHA-256 before its suffix. Eight digits may also be a date.
_HASH_IN_NAME = re.compile(r'-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$')
_REMEDY = (
    'download it elsewhere and put it at {path}, or name your copy with --cfg-options '
    'model.backbone.init_cfg.checkpoint=FILE (train.py --demo and new_config.py --scratch need none)'
)


def fetch(url: str) -> Path:
    """Downloads a file once into torch's cache of checkpoints, completely or not at all.

    Several processes may do so at once. In a distributed run rank 0 downloads first; the others find the
    file, or download it to their own machine.

    Args:
        url: An https address.

    Returns:
        Path of the file.

    Raises:
        UserError: If the address is not https, redirects elsewhere or cannot be reached, if
            ``MMIFORMER_OFFLINE`` is set, or if the file has another SHA-256 than expected.
    """
    if not url.startswith('https://'):
        raise UserError(
            url, 'refused, because weights are only downloaded over https', 'download it and name your copy'
        )
    # By host, folder and query, since many addresses end in model.safetensors.
    address = urllib.parse.urlsplit(url)
    folder, _, name = address.path.lstrip('/').rpartition('/')
    query = hashlib.sha256(address.query.encode()).hexdigest()[:16] if address.query else ''
    path = Path(torch.hub.get_dir(), 'checkpoints', address.netloc, folder, query, name)
    if '..' in (address.netloc, *address.path.split('/')) or not name:
        raise UserError(url, 'refused, because it is not the address of a file', 'check it')
    try:
        with first_process_first():
            if not path.is_file():
                if is_offline():
                    raise UserError(
                        url, 'not downloaded, because MMIFORMER_OFFLINE is set', _REMEDY.format(path=path)
                    )
                print_log(f'Downloading {url} to {path}', logger='current')
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as part:
                    _download(url, part)
                    _check_hash(url, part)
    except (OSError, http.client.HTTPException) as error:
        reason = ' '.join(str(getattr(error, 'reason', error)).split())
        raise UserError(url, f'could not be downloaded ({reason})', _REMEDY.format(path=path)) from error
    return path


def is_offline() -> bool:
    """Whether the user forbids connections: ``MMIFORMER_OFFLINE`` is set to anything but 0."""
    return os.environ.get('MMIFORMER_OFFLINE', '') not in ('', '0')


class _HTTPSOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(args[-1]).scheme != 'https':
            raise urllib.error.URLError(f'it redirects to {args[-1]}, which is not https')
        return super().redirect_request(*args)


def _download(url: str, file: Path) -> None:
    request = urllib.request.Request(url, headers={'User-Agent': 'mmiformer'})
    opener = urllib.request.build_opener(_HTTPSOnly)
    with opener.open(request, timeout=_TIMEOUT) as response, file.open('wb') as target:
        length = response.length
        console = Console(stderr=True)
        silent = not (console.is_terminal and is_main_process())  # Each bar leaves an empty line in a log.
        with wrap_file(response, length or 0, description='', console=console, disable=silent) as source:
            shutil.copyfileobj(source, target, 1 << 20)
        # Python reads a connection that was cut like a shorter file.
        if length is not None and target.tell() != length:
            raise OSError(f'the connection ended after {target.tell()} of {length} bytes')


def _check_hash(url: str, file: Path) -> None:
    if (expected := known_sha256(url)) and not (found := sha256_of(file)).startswith(expected):
        raise UserError(
            url,
            f'refused, because its SHA-256 is {found[: len(expected)]} and not {expected}',
            'if you trust it, download it yourself and name your copy',
        )


def known_sha256(url: str) -> str | None:
    """SHA-256 of a released file, or the start of it from the file's name; None if neither is known."""
    bare = urllib.parse.urlsplit(url)._replace(query='', fragment='').geturl()
    released = {weights.url: weights.sha256 for weights in RELEASED.values()}
    named = _HASH_IN_NAME.search(bare)
    return released.get(bare) or (named[1] if named else None)
