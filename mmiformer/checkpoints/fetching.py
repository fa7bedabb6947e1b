"""Weight files from the network: over https, whole, checked, once; or not at all."""

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
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

_SILENCE = 60  # Seconds without a byte after which a connection counts as dead.
# What torch and OpenMMLab write before a file's suffix: the start of its SHA-256. Eight digits may be a date.
_HASH_IN_NAME = re.compile(r'-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$')
_WAYS_OUT = (
    'fetch it elsewhere and put it at {path}, or name your copy with --cfg-options '
    'model.backbone.init_cfg.checkpoint=FILE (or model.backbone.init_cfg=None to start from scratch, and '
    'model.backbone.norm_eval=False where it has one; tools/train.py CONFIG --demo needs no download).'
)


def fetch(url: str, check: Callable[[Path], Any]) -> Path:
    """Downloads a file once into torch's cache of checkpoints, completely or not at all.

    Several processes may do so at once. In a distributed run rank 0 goes first; the others find the file, or
    fetch it on their own node.

    Args:
        url: An https address.
        check: Raises a UserError if the file at a path is none; is asked before a download gets its name.

    Returns:
        Path of the file.

    Raises:
        UserError: If the address is not https or leads elsewhere, cannot be reached, or ``MMIFORMER_OFFLINE``
            is set; if what came is not whole, has another SHA-256 than is known, or is no weight file.
    """
    if not url.startswith('https://'):
        raise UserError(
            url,
            'refused, because weights are only fetched over https',
            'fetch it yourself and name your copy',
        )
    # By its whole address: many files on one host are called model.safetensors, or differ in the query alone.
    address = urllib.parse.urlsplit(url)
    folder, _, name = address.path.lstrip('/').rpartition('/')
    query = hashlib.sha256(address.query.encode()).hexdigest()[:16] if address.query else ''
    path = Path(torch.hub.get_dir(), 'checkpoints', address.netloc, folder, query, name)
    if '..' in (address.netloc, *address.path.split('/')) or not name:
        raise UserError(f'{url}: refused, because it is no address of a file.')
    try:
        with first_process_first():
            if not path.is_file():
                if is_offline():
                    raise UserError(
                        url, 'not fetched, because MMIFORMER_OFFLINE is set', _WAYS_OUT.format(path=path)
                    )
                print_log(f'Downloading {url} to {path}', logger='current')
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as part:
                    _download(url, part)
                    _check_hash(url, part)
                    try:
                        check(part)
                    except UserError as error:
                        raise UserError(str(error).replace(str(part), url)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = ' '.join(str(getattr(error, 'reason', error)).split())
        raise UserError(url, f'could not be downloaded ({reason})', _WAYS_OUT.format(path=path)) from error
    return path


def is_offline() -> bool:
    """Whether the user forbids connections: ``MMIFORMER_OFFLINE`` is set to anything but 0."""
    return os.environ.get('MMIFORMER_OFFLINE', '') not in ('', '0')


class _HTTPSOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> urllib.request.Request | None:
        """Refuses to leave https, as Python's own would not."""
        url = args[-1]
        if urllib.parse.urlsplit(url).scheme != 'https':
            raise urllib.error.URLError(f'it redirects to {url}, which is not https')
        return super().redirect_request(*args)


def _download(url: str, file: Path) -> None:
    request = urllib.request.Request(url, headers={'User-Agent': 'mmiformer'})
    opener = urllib.request.build_opener(_HTTPSOnly)
    with opener.open(request, timeout=_SILENCE) as response, file.open('wb') as target:
        length = response.length
        if length is None and not response.chunked:
            raise OSError('the server does not say how long it is, so that a part would pass for the whole')
        console = Console(stderr=True)
        # rich leaves an empty line in a log for each bar.
        silent = not (console.is_terminal and is_main_process())
        with wrap_file(response, length or 0, description='', console=console, disable=silent) as source:
            shutil.copyfileobj(source, target, 1 << 20)
        # Python reads a connection that was cut like a shorter file.
        if length is not None and target.tell() != length:
            raise OSError(f'the connection ended after {target.tell()} of {length} bytes')


def _check_hash(url: str, file: Path) -> None:
    known = known_sha256(url)
    found = sha256_of(file) if known else ''
    if known and not found.startswith(known):
        raise UserError(
            url,
            f'refused, because its SHA-256 is {found[: len(known)]} and not {known}',
            'if you trust it all the same, fetch it yourself and name your copy',
        )


def known_sha256(url: str) -> str | None:
    """SHA-256 of the file at an address, or its start: of a released file, or as its name says; else None."""
    bare = urllib.parse.urlsplit(url)._replace(query='', fragment='').geturl()
    released = {weights.url: weights.sha256 for weights in RELEASED.values()}
    named = _HASH_IN_NAME.search(bare)
    return released.get(bare) or (named[1] if named else None)
