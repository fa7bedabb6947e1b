"""Damaged and hostile files: each is read correctly, or refused with an error that names it."""

import contextlib
import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import golden
import pytest
import safetensors.torch
import torch
from helpers import Bomb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._utils import _rebuild_tensor_v2

from mmiformer import IFormer
from mmiformer.checkpoints import load_backbone, read, unpickling
from mmiformer.utils.errors import UserError

pytestmark = [  # Warnings of torch about unusual files.
    pytest.mark.filterwarnings('ignore:Detected pickle protocol:UserWarning'),
    pytest.mark.filterwarnings('ignore:.*[Ss]parse:UserWarning'),
]
KEY = 'stem.0.conv.weight'
# The same examples each time, so that the suite does not fail at random.
EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Call:
    """Pickles to a call of a function, and a state if there is one."""

    def __init__(self, *reduced) -> None:
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class NewBomb(Bomb):
    """Pickles to ``__new__`` of a class, by the opcode for it."""

    def __reduce_ex__(self, protocol):
        return object.__reduce_ex__(self, 2)


def saved(file: Path, value, **kwargs) -> Path:
    torch.save(value, file, **kwargs)
    return file


def archive(file: Path, program: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """Writes a file of torch.save with a given pickle."""
    with zipfile.ZipFile(file, 'w', compression) as target:
        target.writestr('archive/data.pkl', program)
        target.writestr('archive/version', '3\n')
    return file


def safe(file: Path, header: dict | bytes, data: bytes = b'', length: int | None = None) -> Path:
    """Writes a safetensors file with a given header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack('<Q', len(text) if length is None else length) + text + data)
    return file


def entry(dtype: str = 'F32', shape: tuple = (1,), begin: int = 0, end: int = 4) -> dict:
    return dict(dtype=dtype, shape=shape, data_offsets=[begin, end])


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as error:
        read(file)
    text = str(error.value)
    assert str(file) in text and '\n' not in text and len(text) < 400 + 2 * len(str(file))
    return text


# Code.

HOLDERS: dict[str, Callable] = {
    'list': lambda bomb: dict(state_dict={}, x=[[bomb]]),
    'tuple': lambda bomb: dict(state_dict={}, x=((bomb,), 1)),
    'key': lambda bomb: {bomb: 1},
    'optimizer': lambda bomb: dict(state_dict={}, optimizer=dict(state={0: dict(exp_avg=bomb)})),
    'alone': lambda bomb: bomb,
    'beside a tensor': lambda bomb: {KEY: torch.ones(1), 'bias': bomb},
    'state of a dict': lambda bomb: Call(OrderedDict, (), dict(x=bomb)),
    'by type': lambda bomb: dict(x=Call(torch._tensor._rebuild_from_type_v2, (bomb, torch.Tensor, (), {}))),
}


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('holder', HOLDERS)
def test_code_anywhere_in_a_file_is_not_run(tmp_path, holder, legacy):
    mark = tmp_path / 'mark'
    value = HOLDERS[holder](Bomb(mark))
    file = saved(tmp_path / 'x.pth', value, _use_new_zipfile_serialization=not legacy)
    assert 'refused, because reading it would run code' in refusal(file) and not mark.exists()
    with contextlib.suppress(Exception):  # From code that uses the result of the call.
        torch.load(file, weights_only=False)
    assert mark.exists(), 'the file does run code elsewhere'


def _tar(file: Path, program: bytes) -> None:
    """torch.save's format before 0.1.10."""
    with tarfile.open(file, 'w') as target:
        for name in ('sys_info', 'pickle', 'storages', 'tensors'):
            info = tarfile.TarInfo(name)
            info.size = len(program)
            target.addfile(info, io.BytesIO(program))


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('bomb', [Bomb, NewBomb])
def test_other_files_with_pickles_are_refused(tmp_path, bomb, protocol):
    mark = tmp_path / 'mark'
    program = pickle.dumps({KEY: bomb(mark)}, protocol)
    (tmp_path / 'plain.pkl').write_bytes(program)
    _tar(tmp_path / 'old.tar', program)
    archive(tmp_path / 'new.pth', program)
    for name in ('plain.pkl', 'old.tar', 'new.pth'):
        refusal(tmp_path / name)
    assert not mark.exists()


def test_old_opcodes_for_calls_are_refused(tmp_path):
    mark = tmp_path / 'mark'
    for program in (
        f"(S'{mark}'\nios\nmkdir\n.",  # INST
        f"(cos\nmkdir\nS'{mark}'\no.",  # OBJ
        f"cos\nmkdir\n(S'{mark}'\ntR.",
    ):
        file = archive(tmp_path / 'x.pth', program.encode())
        refusal(file)
        assert not mark.exists()
        pickle.loads(program.encode())
        mark.rmdir()


def test_a_pickle_beside_the_weights_is_ignored(tmp_path):
    mark, file = tmp_path / 'mark', saved(tmp_path / 'x.pth', {KEY: torch.ones(2)})
    with zipfile.ZipFile(file, 'a') as target:
        target.writestr('x/code/evil.pkl', pickle.dumps(Bomb(mark)))
    assert torch.equal(read(file).state_dict[KEY], torch.ones(2)) and not mark.exists()


def test_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Conv2d(1, 1, 1)).save(tmp_path / 'x.pt')
    assert 'is a TorchScript program' in refusal(tmp_path / 'x.pt')


# Memory and time.

ONE = torch.storage.TypedStorage(
    wrap_storage=torch.zeros(1).untyped_storage(), dtype=torch.float, _internal=True
)
HUGE: dict[str, tuple[Callable, str]] = {
    'expanded': (
        lambda: {KEY: torch.zeros(1).expand(10**6, 10**6)},
        f'{KEY} has the shape (1000000, 1000000), too large for a file of',
    ),
    'many times': (
        lambda: dict.fromkeys(map(str, range(9)), torch.zeros(1).expand(10**6)),
        'too large for a file of',
    ),
    'beyond its storage': (
        lambda: {KEY: Call(_rebuild_tensor_v2, (ONE, 0, (1000,), (1,), False, OrderedDict()))},
        'truncated, or not a checkpoint',
    ),
    'offset': (
        lambda: {KEY: Call(_rebuild_tensor_v2, (ONE, 10**12, (1,), (1,), False, OrderedDict()))},
        'truncated, or not a checkpoint',
    ),
    'no data': (
        lambda: {KEY: torch.empty(10**6, 10**6, device='meta')},
        'too large for a file',
    ),
    'sparse': (
        lambda: {KEY: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (10**6, 10**6))},
        'too large for a file',
    ),
    'dimensions': (
        lambda: {KEY: Call(_rebuild_tensor_v2, (ONE, 0, (1,) * 900, (1,) * 900, False, OrderedDict()))},
        'a tensor of too many dimensions',
    ),
    'bytes': (lambda: dict(x=Call(bytearray, (10**9,))), 'would run code (bytearray)'),
    'tensor': (lambda: dict(x=Call(torch.Tensor, (10**9,))), 'contains no weights'),
}


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('case', HUGE)
def test_huge_shapes(tmp_path, case, legacy):
    make, words = HUGE[case]
    file = saved(tmp_path / 'x.pth', make(), _use_new_zipfile_serialization=not legacy)
    assert file.stat().st_size < 10_000 and words in refusal(file)


def test_a_storage_that_claims_more_than_its_record(tmp_path):
    for legacy in (False, True):
        file = saved(tmp_path / 'x.pth', {KEY: torch.zeros(77)}, _use_new_zipfile_serialization=not legacy)
        parts = {'data': file.read_bytes()}
        if not legacy:
            with zipfile.ZipFile(file) as source:
                parts = {name: source.read(name) for name in source.namelist()}
        # 77 as a byte, in the storage and in the shape, becomes 2 ** 40.
        lies = {
            name: part.replace(b'K\x4d', b'\x8a\x06' + bytes(5) + b'\x01') for name, part in parts.items()
        }
        assert sum(map(len, lies.values())) > sum(map(len, parts.values())) + 10
        if legacy:
            file.write_bytes(lies['data'])
        else:
            with zipfile.ZipFile(file, 'w') as target:
                for name, part in lies.items():
                    target.writestr(name, part)
        assert 'truncated, or not a checkpoint' in refusal(file)


def test_bytes_that_grow_by_encoding(tmp_path):
    program = b'\x80\x02}X\x01\x00\x00\x00x' + b'c_codecs\nencode\n' * 40 + b'X\x02\x00\x00\x00ab'
    program += b'X\x03\x00\x00\x00hex\x86R' * 40 + b's.'
    assert 'truncated, or not a checkpoint' in refusal(archive(tmp_path / 'x.pth', program))


def test_compressed_archives_are_refused_before_they_are_unpacked(tmp_path):
    file = archive(tmp_path / 'x.pth', bytes(10**8), zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 10**6 and 'is a compressed archive' in refusal(file)


def test_nesting(tmp_path):
    deep = b'\x80\x02' + b'}X\x01\x00\x00\x00x' * 5000 + b'N' + b's' * 5000 + b'.'
    itself = b'\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s.'
    hashed = b'\x80\x02}' + b'N' + b'\x85' * 5000 + b'Ns.'
    for program, words in (
        (deep, 'contains no weights'),
        (itself, 'contains no weights'),
        (hashed, 'a tuple as a key'),
    ):
        assert words in refusal(archive(tmp_path / 'x.pth', program))


def test_a_list_that_contains_the_same_list_twice_and_so_on(tmp_path):
    """A recursive reader would visit 2 ** 30 elements."""
    doubled = [1]
    for _ in range(30):
        doubled = [doubled, doubled]
    file = saved(tmp_path / 'x.pth', dict(state_dict={KEY: torch.ones(2)}, x=doubled))
    assert torch.equal(read(file).state_dict[KEY], torch.ones(2))


# Memo 50 is a tuple of 2 ** 50 empty tuples.
DOUBLED = b'](' + b')q\x00' + b''.join(b'h%ch%c\x86q%c' % (i, i, i + 1) for i in range(50)) + b'e'


def test_keys_that_take_forever_to_hash(tmp_path):
    huge = b'\x8a\x10' + (7 * (2**61 - 1) << 32).to_bytes(16, 'little')
    storage = b'(X\x07\x00\x00\x00storagectorch\nFloatStorage\nh2X\x03\x00\x00\x00cpuK\x01tQ.'
    for program, words in (
        (b'}h2Ns.', 'a tuple as a key'),
        (b'}(NNh2Nu.', 'a tuple as a key'),
        (storage, 'a tuple as a key'),
        (b'}' + huge + b'Ns.', 'contains no weights'),  # Never a key: ignored.
    ):
        assert words in refusal(archive(tmp_path / 'x.pth', b'\x80\x02' + DOUBLED + program)), program


def test_storage_keys_of_the_old_format_that_take_forever_to_hash(tmp_path):
    file = saved(tmp_path / 'x.pth', {KEY: torch.ones(1)}, _use_new_zipfile_serialization=False)
    stream = io.BytesIO(file.read_bytes())
    for _ in range(4):
        pickletools.dis(stream, out=io.StringIO())  # Leaves the stream after a pickle.
    file.write_bytes(stream.getvalue()[: stream.tell()] + b'\x80\x02' + DOUBLED + b'](h2e.')
    assert 'a tuple as a key' in refusal(file)


def test_nothing_of_the_process_can_be_changed(tmp_path):
    """In Python's unpickler the opcode BUILD sets attributes of classes and functions."""
    names = (
        'torch.storage UntypedStorage',
        'torch.serialization _get_layout',
        'torch._utils _rebuild_tensor_v2',
    )
    for name in (*names, 'collections OrderedDict', 'numpy dtype', 'argparse Namespace', 'torch device'):
        found = b'c%b\n%b\n' % tuple(part.encode() for part in name.split())
        program = b'\x80\x02' + found + b'N}X\x05\x00\x00\x00cache' + b'X\x04\x00\x00\x00evils\x86b.'
        refusal(archive(tmp_path / 'x.pth', program))
    modules = (torch.UntypedStorage, torch.serialization._get_layout, torch._utils._rebuild_tensor_v2)
    for value in (*modules, *vars(unpickling).values()):
        assert getattr(value, 'cache', None) != 'evil'


def test_tars_are_refused(tmp_path):
    with tarfile.open(tmp_path / 'tar.pth', 'w') as tar:
        tar.addfile(tarfile.TarInfo('\x80\x02storages'))
    archive(tmp_path / 'zip', pickle.dumps({}))
    (tmp_path / 'both.pth').write_bytes((tmp_path / 'tar.pth').read_bytes() + (tmp_path / 'zip').read_bytes())
    for name in ('tar.pth', 'both.pth'):
        assert 'truncated, or not a checkpoint' in refusal(tmp_path / name)


def test_only_one_of_two_directories_in_an_archive_counts(tmp_path):
    """torch follows the offset at the end of the file, Python looks right before the end."""
    bomb = archive(tmp_path / 'bomb', bytes(10**7), zipfile.ZIP_DEFLATED).read_bytes()
    plain = archive(tmp_path / 'plain', pickle.dumps({}, 2)).read_bytes()
    start = struct.unpack('<I', bomb[-6:-2])[0]  # Of the first directory.
    file = tmp_path / 'x.pth'
    file.write_bytes(bomb[:-22] + plain[:-22] + plain[-22:-6] + struct.pack('<I', start) + plain[-2:])
    refusal(file)


FEW_BYTES = {
    'nested': b']' * 10**6 + b'a' * (10**6 - 1),
    'flat': b'](' + b'K\x01' * 10**7 + b'e',
    'memo': b'Nr\xff\xff\xff\x7f' + b'N0' * 10**6,
    'calls': b'ccollections\nOrderedDict\nq\x00' + b'h\x00)R' * 10**6,
}


@pytest.mark.parametrize('case', FEW_BYTES)
def test_a_pickle_that_would_take_many_times_its_size(tmp_path, case):
    """Measured in another process, by the largest size that it had."""
    file = archive(tmp_path / 'x.pth', b'\x80\x02' + FEW_BYTES[case] + b'.')
    code = (
        'import resource, sys\n'
        'from mmiformer.checkpoints import read\n'
        'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
        'try: read(sys.argv[1])\n'
        'except ValueError as error: print(error)\n'
        'print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, file], capture_output=True, text=True, check=True, timeout=60
    )
    words, size = done.stdout.splitlines()[-2:]
    assert ('refused' in words or 'memo' in words) and int(size) < 10 * file.stat().st_size + (8 << 20)


def test_paths_that_are_not_files(tmp_path):
    os.mkfifo(tmp_path / 'fifo.pth')
    (tmp_path / 'zero.safetensors').symlink_to('/dev/zero')
    (tmp_path / 'folder.pth').mkdir()
    for name in ('fifo.pth', 'zero.safetensors', 'folder.pth'):
        assert 'is a folder, a pipe or a device' in refusal(tmp_path / name)
    for name in ('dangling.pth', 'x' * 300):
        if name == 'dangling.pth':
            (tmp_path / name).symlink_to(tmp_path / 'gone')
        with pytest.raises(UserError, match='no such checkpoint file'):
            read(tmp_path / name)


# Form.


@pytest.mark.parametrize(
    ('value', 'words'),
    [
        ([torch.ones(1)], 'contains no weights'),
        (torch.ones(1), 'contains no weights'),
        (None, 'contains no weights'),
        ({1: torch.ones(1)}, 'the key 1 is not the name'),
        (dict(state_dict={None: torch.ones(1)}), 'the key None is not the name'),
        (dict(state_dict={'a\x1b[2J': torch.ones(1)}), r"the key 'a\x1b[2J' is not the name"),
        (dict(state_dict=[torch.ones(1)]), 'contains no weights'),
        (dict(model=None), 'contains no weights'),
        (dict(state_dict={KEY: 'x'}), 'contains no weights'),
    ],
    ids=lambda x: x if isinstance(x, str) else '',
)
def test_contents_other_than_a_dict_of_tensors(tmp_path, value, words):
    assert words in refusal(saved(tmp_path / 'x.pth', value))


def test_versions_of_modules_are_ignored(tmp_path):
    honest = torch.nn.BatchNorm2d(2).state_dict()
    for versions in (honest._metadata, [1], {'': [1]}, {'': dict(version='two')}):
        honest._metadata = versions
        found = read(saved(tmp_path / 'x.pth', dict(state_dict=honest))).state_dict
        assert found.keys() == honest.keys() and not hasattr(found, '_metadata')


# Numbers.


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_other_floats_are_converted(tmp_path, dtype, suffix):
    net = IFormer('t', out_indices=(0,))
    net.init_weights()
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in net.state_dict().items()}
    file = tmp_path / f'x{suffix}'
    safetensors.torch.save_file(weights, file) if suffix == '.safetensors' else torch.save(weights, file)
    other = IFormer('t', out_indices=(0,), init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    other.init_weights()
    for key, value in other.state_dict().items():
        own = net.state_dict()[key]
        assert value.dtype == own.dtype and torch.equal(value, own.to(weights[key].dtype).to(own.dtype)), key


@pytest.fixture(scope='module')
def network() -> IFormer:
    made = IFormer('t', out_indices=(0,))
    made.init_weights()
    return made


def with_weights(network: IFormer, file: Path, change: Callable) -> None:
    """Fills a network from a file of its weights, one of them changed."""
    weights = {**network.state_dict(), KEY: change(network.state_dict()[KEY])}
    safetensors.torch.save_file(weights, file) if file.suffix == '.safetensors' else torch.save(weights, file)
    assert read(file).state_dict[KEY].dtype == weights[KEY].dtype, 'fine in other networks'
    load_backbone(network, file)


@pytest.mark.parametrize('dtype', ['int64', 'int8', 'bool', 'complex64'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_other_numbers_are_refused_for_weights(network, tmp_path, dtype, suffix):
    with pytest.raises(UserError, match=rf'x{suffix}: {KEY}: is torch\.{dtype}'):
        with_weights(network, tmp_path / f'x{suffix}', lambda x: x.to(getattr(torch, dtype)))


def test_8_bit_floats_are_converted(network, tmp_path):
    before = network.state_dict()[KEY].clone()
    with_weights(network, tmp_path / 'x.pth', lambda x: x.to(torch.float8_e4m3fn))
    assert torch.equal(network.state_dict()[KEY], before.to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize(
    ('make', 'kind'),
    [
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), 'torch.qint8'),
        (lambda x: x.to_sparse(), 'torch.sparse_coo'),
        (lambda x: x.to('meta'), 'on meta'),
    ],
)
def test_other_tensors_are_refused(network, tmp_path, make, kind):
    with pytest.raises(UserError, match=rf'{KEY}: is .*{kind}'):
        with_weights(network, tmp_path / 'x.pth', make)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_nan_and_infinity_are_refused(network, tmp_path, value, dtype, suffix):
    def change(weight: torch.Tensor) -> torch.Tensor:
        weight = weight.to(dtype)
        weight[1, 2] = value
        return weight

    with pytest.raises(UserError, match=rf'x{suffix}: {KEY}: holds NaN or infinity \(25 of 1200'):
        with_weights(network, tmp_path / f'x{suffix}', change)


# Damage.


@pytest.fixture(scope='module')
def honest(tmp_path_factory) -> dict[str, Path]:
    """Small files with our names and with the authors' names."""
    folder = tmp_path_factory.mktemp('honest')
    net = torch.nn.Sequential(OrderedDict(conv=torch.nn.Conv2d(1, 2, 3), norm=torch.nn.BatchNorm2d(2)))
    own = dict(meta=dict(epoch=1), state_dict=net.state_dict(), optimizer=dict(state={0: torch.ones(9)}))
    names = ('downsample_layers.0.0.c.weight', 'downsample_layers.0.2.conv_exp_bn1.c.weight')
    official = dict(model={name: golden.made_up(name, [4, 3, 3, 3]) for name in names}, epoch=299)
    return {
        'ours.pth': saved(folder / 'ours.pth', own),
        'official.pth': saved(folder / 'official.pth', official),
        'ours.safetensors': _safetensors(folder / 'ours.safetensors', own['state_dict']),
        'official.safetensors': _safetensors(folder / 'official.safetensors', official['model']),
    }


def _safetensors(file: Path, weights: dict) -> Path:
    safetensors.torch.save_file(weights, file)
    return file


def tensors(value, key: tuple = ()) -> dict:
    if isinstance(value, dict):
        return {k: v for name, child in value.items() for k, v in tensors(child, (*key, name)).items()}
    return {key: value}


def same(one, other) -> bool:
    one, other = tensors(one), tensors(other)
    return one.keys() == other.keys() and all(
        torch.equal(v, other[k]) if isinstance(v, torch.Tensor) else v == other[k] for k, v in one.items()
    )


@pytest.mark.parametrize('name', ['ours.pth', 'official.pth', 'ours.safetensors', 'official.safetensors'])
def test_truncated_anywhere(honest, tmp_path, name):
    original = honest[name].read_bytes()
    file = tmp_path / name

    @EXAMPLES
    @given(st.integers(0, len(original) - 1))
    def check(size: int) -> None:
        file.write_bytes(original[:size])
        assert 'truncated, or not a checkpoint' in refusal(file)

    check()


@pytest.mark.parametrize('name', ['ours.pth', 'official.pth'])
def test_a_flipped_bit_anywhere_changes_nothing_or_is_an_error(honest, tmp_path, name):
    original, expected = honest[name].read_bytes(), read(honest[name])
    file = tmp_path / name

    @EXAMPLES
    @given(st.integers(0, len(original) - 1), st.integers(0, 7))
    def check(place: int, bit: int) -> None:
        damaged = bytearray(original)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        try:
            back = read(file)
        except UserError as error:
            assert str(file) in str(error)
        else:
            assert same(vars(back), vars(expected))

    check()


def test_a_flipped_bit_among_the_weights(honest, tmp_path):
    """torch.load ignores it."""
    file = tmp_path / 'ours.pth'
    with zipfile.ZipFile(honest['ours.pth']) as source:
        record = next(i for i in source.infolist() if i.filename.endswith('data/0'))
        weights = source.read(record)
    original = honest['ours.pth'].read_bytes()
    place = original.index(weights)
    file.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
    assert not same(torch.load(file)['state_dict'], read(honest['ours.pth']).state_dict)
    assert "Bad CRC-32 for file 'ours/data/0'" in refusal(file).replace('\\', '')


@pytest.mark.parametrize('name', ['ours.safetensors', 'official.safetensors'])
def test_a_flipped_bit_in_a_header_gives_tensors_or_an_error(honest, tmp_path, name):
    original = honest[name].read_bytes()
    length = 8 + struct.unpack('<Q', original[:8])[0]
    file = tmp_path / name

    @EXAMPLES
    @given(st.integers(0, length - 1), st.integers(0, 7))
    def check(place: int, bit: int) -> None:
        damaged = bytearray(original)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        try:
            back = read(file)
        except UserError as error:
            assert str(file) in str(error)
        else:
            assert all(isinstance(value, torch.Tensor) for value in back.state_dict.values())

    check()


def test_files_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        file = saved(tmp_path / 'x.pth', {KEY: torch.arange(3.0)})
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read(file).state_dict[KEY], torch.arange(3.0))


# safetensors.

HEADERS: dict[str, tuple] = {
    'length beyond the file': ({}, b'', 10**6),
    'length of 2 ** 63': ({}, b'', 2**63),
    'no JSON': (b'hello', b''),
    'no UTF-8': (b'\xff\xfe', b''),
    'not a dict': (b'[1]', b''),
    'nested': (b'{"a":' * 10**5, b''),
    'terabytes': ({KEY: entry(shape=(10**6, 10**6), end=4 * 10**12)}, b''),
    'overflow': ({KEY: entry(shape=(2**32, 2**32), end=0)}, b''),
    'negative': ({KEY: entry(shape=(-1,))}, bytes(4)),
    'another shape than its bytes': ({KEY: entry(shape=(3,))}, bytes(4)),
    'overlap': ({KEY: entry(), 'b': entry(shape=(2,), begin=0, end=8)}, bytes(8)),
    'same place': ({KEY: entry(), 'b': entry()}, bytes(4)),
    'hole before': ({KEY: entry(begin=4, end=8)}, bytes(8)),
    'hole between': ({KEY: entry(), 'b': entry(begin=8, end=12)}, bytes(12)),
    'bytes after': ({KEY: entry()}, bytes(8)),
    'absurd dtype': ({KEY: entry('F31')}, bytes(4)),
    'duplicate keys': (
        b'{"a":%(a)s,"a":%(b)s}'
        % {b'a': json.dumps(entry()).encode(), b'b': json.dumps(entry(begin=4, end=8)).encode()},
        bytes(8),
    ),
    'above 100 MB': (b'{' + b' ' * 101_000_000 + b'}', b''),
}


@pytest.mark.parametrize('case', HEADERS)
def test_bad_headers_of_safetensors(tmp_path, case):
    header, data, *length = HEADERS[case]
    file = safe(tmp_path / 'x.safetensors', header, data, *length)
    assert 'truncated, or not a checkpoint' in refusal(file)


@EXAMPLES
@given(
    st.dictionaries(
        st.sampled_from([KEY, 'a', '__metadata__', '']),
        st.fixed_dictionaries(
            dict(
                dtype=st.sampled_from(['F32', 'F16', 'BF16', 'I64', 'F8_E4M3', 'F4', 'BOOL', 'x', '']),
                shape=st.lists(st.integers(-1, 2**64), max_size=3),
                data_offsets=st.lists(st.integers(0, 40), min_size=1, max_size=3),
            )
        ),
        max_size=3,
    ),
    st.integers(0, 40),
)
def test_any_header_of_safetensors_gives_tensors_of_its_size_or_an_error(tmp_path, header, size):
    file = safe(tmp_path / 'x.safetensors', header, bytes(size))
    try:
        back = read(file)
    except UserError as error:
        assert str(file) in str(error)
    else:
        assert sum(v.numel() * v.element_size() for v in back.state_dict.values()) == size
