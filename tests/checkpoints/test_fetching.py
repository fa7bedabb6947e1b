"""Downloads from a TLS server on this machine."""

import io
import multiprocessing
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from mmiformer.apis import cli
from mmiformer.checkpoints import fetching, read, released
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import sha256_of

Answer = Callable[[BaseHTTPRequestHandler], None]


def weights(value: float = 1.0) -> bytes:
    stream = io.BytesIO()
    torch.save({'x': torch.full((20_000,), float(value))}, stream)
    return stream.getvalue()


class Site:
    """A server whose answers tests set by path and query."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self) -> None:
                site.asked.append(self.path)
                self.close_connection = True
                site.answers[self.path](self)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(('localhost', 0), Handler)
        self.server.handle_error = lambda *_: None  # Not of connections that the client closes.
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = 'https' if certificate else 'http'
        self.address = f'{scheme}://localhost:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


def complete(data: bytes) -> Answer:
    return stated(data, len(data))


def stated(data: bytes, length: int | None) -> Answer:
    """Announces a length, or none, then sends data and closes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length is not None:
            handler.send_header('Content-Length', str(length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def in_chunks(*chunks: bytes, end: bytes = b'0\r\n\r\n') -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header('Transfer-Encoding', 'chunked')
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(f'{len(chunk):x}\r\n'.encode() + chunk + b'\r\n')
        handler.wfile.write(end)

    return answer


def redirect(address: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header('Location', address)
        handler.send_header('Content-Length', '0')
        handler.end_headers()

    return answer


@pytest.fixture(scope='module')
def certificate(tmp_path_factory) -> Path:
    """Key and certificate of localhost, in one file."""
    if not shutil.which('openssl'):
        pytest.skip('no openssl to make a certificate with')
    file = tmp_path_factory.mktemp('tls') / 'localhost.pem'
    command = 'openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext'
    names = ['subjectAltName=DNS:localhost', '-keyout', str(file), '-out', f'{file}.crt']
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f'{file}.crt').read_text())
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Folder of downloads."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    monkeypatch.delenv('MMIFORMER_OFFLINE', raising=False)
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


@pytest.fixture
def site(certificate, cache, monkeypatch) -> Iterator[Site]:
    monkeypatch.setenv('SSL_CERT_FILE', f'{certificate}.crt')
    monkeypatch.setenv('no_proxy', '*')
    site = Site(certificate)
    yield site
    site.server.shutdown()
    site.server.server_close()


def files_of(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob('*') if path.is_file())


def refusal(url: str) -> str:
    with pytest.raises(UserError) as error:
        read(url)
    text = str(error.value)
    assert url in text and '\n' not in text
    return text


def test_a_file_is_fetched_once_and_kept_by_its_full_address(site, cache):
    names = ('1/model.pth', '2/model.pth', '2/model.pth?id=3', '2/model.pth?id=4')
    for number, name in enumerate(names):
        site.answers[f'/{name}'] = complete(weights(number))
    for _ in range(2):
        for number, name in enumerate(names):
            assert read(f'{site.address}/{name}').state_dict['x'].mean() == number
    assert site.asked == [f'/{name}' for name in names]
    folder = cache / site.address.removeprefix('https://')
    plain, queried = [folder / name for name in names[:2]], [*folder.glob('2/*/model.pth')]
    assert files_of(cache) == sorted(plain + queried)
    assert plain[0].read_bytes() == weights(0)


def test_redirects_stay_with_https(site, cache):
    plain = Site()
    plain.answers['/net.pth'] = site.answers['/net.pth'] = complete(weights())
    site.answers['/good.pth'] = redirect(f'{site.address}/net.pth')
    site.answers['/bad.pth'] = redirect(f'{plain.address}/net.pth')
    site.answers['/worse.pth'] = redirect('file:///etc/hostname')
    assert read(f'{site.address}/good.pth').state_dict['x'].mean() == 1
    text = refusal(f'{site.address}/bad.pth')
    assert f'it redirects to {plain.address}/net.pth, which is not https' in text
    assert 'not allowed' in refusal(f'{site.address}/worse.pth')  # A message of Python.
    assert not plain.asked and [path.name for path in files_of(cache)] == ['good.pth']
    plain.server.shutdown()
    plain.server.server_close()


def test_chunks_may_come_instead_of_a_length(site):
    data = weights()
    site.answers['/net.pth'] = in_chunks(data[:1000], data[1000:])
    assert read(f'{site.address}/net.pth').state_dict['x'].mean() == 1


@pytest.mark.parametrize(
    ('answer', 'words'),
    [
        (stated(weights()[:5000], len(weights())), f'ended after 5000 of {len(weights())} bytes'),
        (stated(b'', 10**15), 'ended after 0 of 1000000000000000 bytes'),
        (in_chunks(weights()[:5000], end=b'ffff\r\n'), 'IncompleteRead'),
        (lambda handler: handler.send_error(404, 'Not Found'), 'Not Found'),
        (lambda handler: handler.wfile.write(b'nonsense\r\n\r\n'), 'could not be downloaded'),
        (lambda handler: time.sleep(0.5), 'timed out'),
    ],
    ids=lambda x: x[:20] if isinstance(x, str) else '',
)
def test_an_incomplete_download_leaves_nothing(site, cache, monkeypatch, answer, words):
    monkeypatch.setattr(fetching, '_TIMEOUT', 0.2)
    site.answers['/net.pth'] = answer
    assert words in refusal(f'{site.address}/net.pth')
    assert files_of(cache) == []
    site.answers['/net.pth'] = complete(weights())
    assert read(f'{site.address}/net.pth').state_dict['x'].mean() == 1


def test_the_error_names_alternatives(site, cache):
    site.server.shutdown()
    site.server.server_close()
    text = refusal(f'{site.address}/net.pth')
    place = cache / site.address.removeprefix('https://') / 'net.pth'
    assert all(w in text for w in ('Connection refused', f'put it at {place}', 'init_cfg', '--demo'))


def test_an_unknown_certificate_is_refused(site, cache, monkeypatch):
    monkeypatch.delenv('SSL_CERT_FILE')
    site.answers['/net.pth'] = complete(weights())
    assert 'CERTIFICATE_VERIFY_FAILED' in refusal(f'{site.address}/net.pth')
    assert not site.asked and files_of(cache) == []


def test_the_hash_in_a_name_is_compared(site, cache, tmp_path):
    (tmp_path / 'net').write_bytes(weights())
    start = sha256_of(tmp_path / 'net')[:8]
    other = f'{int(start, 16) ^ 1:08x}'
    for digits in (start, other):
        site.answers[f'/net-{digits}.pth'] = complete(weights())
    assert read(f'{site.address}/net-{start}.pth').state_dict['x'].mean() == 1
    text = refusal(f'{site.address}/net-{other}.pth')
    assert f'its SHA-256 is {start} and not {other}; if you trust it' in text
    assert [path.name for path in files_of(cache)] == [f'net-{start}.pth']


def test_the_hash_of_a_released_file_is_compared(site, cache, monkeypatch):
    expected = released.RELEASED['iformer_t_in1k'].sha256
    moved = released.Weights(f'{site.address}/iFormer_t.pth', expected)
    monkeypatch.setitem(released.RELEASED, 'iformer_t_in1k', moved)
    site.answers['/iFormer_t.pth'] = complete(weights())
    assert f'and not {expected}; if you trust it' in refusal(f'{site.address}/iFormer_t.pth')
    assert files_of(cache) == []


@pytest.mark.parametrize(
    ('name', 'known'),
    [
        ('resnet18-f37072fd.pth', 'f37072fd'),
        ('convnext-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth?x=1', '795e9634'),
        (f'net-{"7cbd" * 16}.safetensors', '7cbd' * 16),
        ('net-20220301.pth', None),
        ('net-abc.pth', None),
        ('net-deadbeef-x.pth', None),
        ('net-f37072fd/net.pth', None),
        ('net.pth', None),
    ],
)
def test_hashes_in_names(name, known):
    assert fetching.known_sha256(f'https://a.org/{name}') == known


def test_addresses_that_are_refused(tmp_path, cache):
    for scheme in ('http', 'ftp', 'file', 's3', 'a:s3', 'petrel', 'pavi'):
        with pytest.raises(UserError, match='weights are only downloaded over https'):
            read(f'{scheme}://a.org/net.pth')
    for path in ('../../../net.pth', 'a/../../../../net.pth', '', 'folder/'):
        assert 'not the address of a file' in refusal(f'https://a.org/{path}')
    for url in ('https://../net.pth', 'https://a.org?id=1'):
        assert 'not the address of a file' in refusal(url)
    assert files_of(tmp_path) == []


# Several processes.


def in_a_process(url: str) -> multiprocessing.Process:
    # Forked, since a new one needs seconds to import torch.
    process = multiprocessing.get_context('fork').Process(target=read, args=(url,))
    process.start()
    return process


def test_two_processes_fetch_at_once(site, cache):
    data, both = weights(), threading.Barrier(2, timeout=20)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header('Content-Length', str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:5000])
        both.wait()
        handler.wfile.write(data[5000:])

    site.answers['/net.pth'] = answer
    processes = [in_a_process(f'{site.address}/net.pth') for _ in range(2)]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0] and len(site.asked) == 2
    assert [path.read_bytes() for path in files_of(cache)] == [data]


def test_the_part_of_a_killed_download_is_not_used(site, cache):
    data, begun, end = weights(), threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header('Content-Length', str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:-1])
        begun.set()
        end.wait(20)

    site.answers['/net.pth'] = answer
    process = in_a_process(f'{site.address}/net.pth')
    assert begun.wait(20)
    while not files_of(cache):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    end.set()
    (left,) = files_of(cache)
    assert left.name.startswith('part-')
    site.answers['/net.pth'] = complete(data)
    assert read(f'{site.address}/net.pth').state_dict['x'].mean() == 1
    assert {path.name for path in files_of(cache)} == {left.name, 'net.pth'}


def test_a_file_in_the_cache_that_is_no_checkpoint_is_named_and_kept(site, cache):
    """It may be the user's own copy, and another process may be reading it."""
    site.answers['/net.pth'] = complete(b'<html>Please sign in</html>')
    for _ in range(2):
        text = refusal(f'{site.address}/net.pth')
        (file,) = files_of(cache)
        assert f'{file}: truncated' in text and 'or remove the file to download it again' in text
    file.unlink()
    site.answers['/net.pth'] = complete(weights())
    assert read(f'{site.address}/net.pth').state_dict['x'].mean() == 1


# Offline.


def test_offline_only_the_cache_is_used(site, cache, monkeypatch):
    site.answers['/net.pth'] = site.answers['/other.pth'] = complete(weights())
    monkeypatch.setenv('MMIFORMER_OFFLINE', '0')
    read(f'{site.address}/net.pth')
    monkeypatch.setenv('MMIFORMER_OFFLINE', '1')
    assert read(f'{site.address}/net.pth').state_dict['x'].mean() == 1
    text = refusal(f'{site.address}/other.pth')
    place = files_of(cache)[0].with_name('other.pth')
    assert 'MMIFORMER_OFFLINE is set' in text and f'put it at {place}' in text
    assert site.asked == ['/net.pth']
    place.write_bytes(weights(2))
    assert read(f'{site.address}/other.pth').state_dict['x'].mean() == 2


def test_offline_applies_to_hugging_face(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '0')
    monkeypatch.delenv('MMIFORMER_OFFLINE', raising=False)
    cli.run(lambda: None)
    assert os.environ['HF_HUB_OFFLINE'] == '0'
    monkeypatch.setenv('MMIFORMER_OFFLINE', 'yes')
    cli.run(lambda: None)
    assert os.environ['HF_HUB_OFFLINE'] == '1'
