"""Make the virtual environment that `make demo` and `make test` run in.

Standard library only: it runs before anything is installed. What it does is

    1. check Python, the venv module, and what compiling mmcv needs;
    2. create the environment and install torch and the build tools;
    3. install mmcv, whose operators are compiled against that torch;
    4. install the rest of the stack, the test tools and mmiformer itself (editable);
    5. check that all of it loads, and leave a stamp, so that the next call does nothing.

pip's own settings (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL, ...) are obeyed, since pip reads them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTED_PYTHON = (3, 11)
# 3.10 is too old for some of the pinned versions, 3.13 too new for mmcv.
USABLE_PYTHON = ((3, 11), (3, 12))

# Both lines own the import folders mmengine, mmcv, ...: each needs an environment of its own.
STACKS = {
    'onedl': {'venv': '.venv', 'mmcv': 'onedl-mmcv'},
    'openmmlab': {'venv': '.venv-openmmlab', 'mmcv': 'mmcv'},
}
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
SECONDS_PER_LINE = 60  # in a log; a terminal gets a line that is rewritten twice a second

# Loads the operators' file alone: importing mmcv also needs OpenCV's system libraries.
CHECK_OPS = """
import importlib.util, pathlib, torch
mmcv = importlib.util.find_spec('mmcv')
assert mmcv is not None, 'mmcv is not there'
files = list(pathlib.Path(mmcv.origin).parent.glob('_ext*.so'))
assert files, 'they were not built'
importlib.util.module_from_spec(importlib.util.spec_from_file_location('_ext', files[0]))
"""
CHECK_ALL = """
import cv2, mmcv, mmcv._ext, mmdet, mmengine, mmseg, torch
print(f'torch {torch.__version__}, mmengine {mmengine.__version__}, mmcv {mmcv.__version__} '
      f'with its operators, mmdet {mmdet.__version__}, mmseg {mmseg.__version__}')
"""


class SetupError(Exception):
    """Something is missing or failed; the message is all that the user needs to read."""


def say(text: str = '') -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """Format seconds as 4 s, 3:07 min or 1:02:03 h."""
    minutes, secs = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours}:{minutes:02}:{secs:02} h'
    return f'{minutes}:{secs:02} min' if minutes else f'{secs} s'


# ---------------------------------------------------------------------------------- the checks


def check_python() -> None:
    """Refuse versions that cannot work, and say so for those that were not tested."""
    version = sys.version_info[:2]
    name = '{}.{}'.format(*version)
    if version not in USABLE_PYTHON:
        other = next((p for p in ('python3.11', 'python3.12') if shutil.which(p)), None)
        way = (
            f'Run the same command with PYTHON={other}.'
            if other
            else 'Install Python 3.11 and run the same command with PYTHON=python3.11.'
        )
        raise SetupError(
            f'This is Python {name}, and the pinned environment exists for 3.11 (tested) and 3.12. '
            f'{way} (An environment of your own: docs/install.md.)'
        )
    if version != TESTED_PYTHON:
        say(f'Note: the pinned versions were tested with Python 3.11, this is {name}: going on.')
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "Python's venv module is missing. Install it "
            f'(Debian, Ubuntu: sudo apt-get install python{name}-venv).'
        ) from None


def find_compiler() -> str | None:
    """Return the C++ compiler that the build will use, or None."""
    names = [os.environ.get('CXX', '').split(' ')[0], 'c++', 'g++', 'clang++']
    return next((name for name in names if name and shutil.which(name)), None)


def local_wheel(distribution: str, version: str) -> str | None:
    """Return the name of a wheel in PIP_FIND_LINKS or pip's cache that saves compiling."""
    tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
    machine = platform.machine()
    start = f'{distribution.replace("-", "_")}-{version}-{tag}-'

    def fits(name: str) -> bool:
        return name.startswith(start) and name.endswith(f'{machine}.whl')

    names = []
    for link in os.environ.get('PIP_FIND_LINKS', '').split():
        folder = Path(link[len('file://') :] if link.startswith('file://') else link).expanduser()
        if folder.is_dir():
            names += [path.name for path in folder.iterdir()]
        else:
            names.append(folder.name)
    found = next(filter(fits, names), None)
    if found:
        return found
    cached = subprocess.run(
        [sys.executable, '-m', 'pip', 'cache', 'list', '--format=abspath', start[:-1]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return next(filter(fits, (Path(line).name for line in cached.stdout.splitlines())), None)


def check_build_tools() -> None:
    """Ask for a C++ compiler and Python's headers, with the two ways out."""
    missing = []
    if find_compiler() is None:
        missing.append('a C++ compiler (c++, g++ or clang++)')
    if not Path(sysconfig.get_path('include'), 'Python.h').is_file():
        missing.append("Python's headers (Python.h)")
    if missing:
        install = (
            'xcode-select --install'
            if sys.platform == 'darwin'
            else 'Debian, Ubuntu: sudo apt-get install build-essential python3-dev'
        )
        raise SetupError(
            f"Missing: {' and '.join(missing)}, needed to compile mmcv's operators. Install it "
            f'({install}), or use a prebuilt mmcv wheel (docs/install.md, "No compiler").'
        )


def check_cuda_toolkit(python: Path) -> None:
    """Stop before a build that a GPU without nvcc would break."""
    code = (
        'import torch; from torch.utils.cpp_extension import CUDA_HOME; '
        'print(torch.cuda.is_available() and CUDA_HOME is None)'
    )
    if run_quietly(python, code).stdout.strip() == 'True':
        raise SetupError(
            'torch sees a GPU, but the CUDA toolkit that compiles mmcv for it (nvcc) is not '
            "installed. Install the version that torch was built with (python -c 'import torch; "
            "print(torch.version.cuda)') or set CUDA_HOME; or build mmcv for the CPU alone, with "
            'CUDA_VISIBLE_DEVICES= before the same command.'
        )


# ------------------------------------------------------------------------------------ installing


class Progress:
    """What a running pip is at, read from its output as it comes."""

    COUNT = re.compile(r'^\s*\[(\d+)/(\d+)\]')
    ACTION = re.compile(r'^\s*(Collecting|Downloading|Building wheel for|Installing collected)')
    ERROR = re.compile(r'^ERROR|\berror: .|Error: .|^FAILED|No space left')

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.tail: deque[str] = deque(maxlen=8)
        self.action = ''
        self.count = ''
        self._since: float | None = None

    def feed(self, line: str) -> None:
        """Take one line of pip's (or, within it, ninja's) output."""
        if line.strip():
            self.tail.append(line.strip())
            if self.ERROR.search(line):
                self.errors.append(line.strip())
        step = self.COUNT.match(line)
        if step:
            self._since = self._since or time.monotonic()
            done, total = int(step[1]), int(step[2])
            self.count = f'compiled {done} of {total} files'
            spent = time.monotonic() - self._since
            if done == total:
                self.count += ', linking'
            elif done > 3:
                self.count += f', some {duration(spent / (done - 1) * (total - done))} left'
        elif self.ACTION.match(line):
            self.action = ' '.join(line.split()[:4]).rstrip(',:')
            if self.action.startswith('Installing collected'):
                self.action = self.count = ''

    def __str__(self) -> str:
        return self.count or self.action

    def report(self) -> str:
        """Return the first errors, which name the cause, and the last lines."""
        lines = self.errors[:8] + [line for line in self.tail if line not in self.errors[:8]]
        return '\n'.join(f'    {line[:200]}' for line in lines)


def run_shown(title: str, command: list[str], log: Path, env: dict[str, str]) -> None:
    """Run a command with its output in a log file and a line of progress on the screen.

    Raises:
        SetupError: The command failed; the message holds the end of its output.
    """
    progress = Progress()
    start = time.monotonic()
    terminal = sys.stdout.isatty()
    if not terminal:
        say(f'{title} ...')
    with log.open('a', encoding='utf-8') as out:
        out.write(f'\n$ {" ".join(command)}\n')
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,  # so that an interruption can end the compilers too
        )

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                out.write(line)
                out.flush()
                progress.feed(line)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        next_line = SECONDS_PER_LINE
        try:
            while reader.is_alive():
                reader.join(0.5)
                elapsed = time.monotonic() - start
                state = f'{title}: {duration(elapsed)}  {progress}'
                if terminal:
                    width = shutil.get_terminal_size().columns - 1
                    print(f'\r\033[K{state[:width]}', end='', flush=True)
                elif elapsed >= next_line:
                    say(f'  {duration(elapsed)}  {progress}')
                    next_line += SECONDS_PER_LINE
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    elapsed = time.monotonic() - start
    if code:
        if terminal:
            say()
        raise SetupError(
            f'{title} failed after {duration(elapsed)}:\n{progress.report()}\nAll of it: {display(log)}'
        )
    done = f'{title}: done in {duration(elapsed)}'
    say(f'\r\033[K{done}' if terminal else f'  {done}')


def run_quietly(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Python in the environment, away from the sources."""
    return subprocess.run(
        [str(python), '-c', code],
        cwd=python.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def display(path: Path) -> str:
    """Show a path relative to where the user stands, if it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def pinned(constraints: Path, distribution: str) -> str:
    """Look up the one version of a distribution in a constraints file."""
    for line in constraints.read_text(encoding='utf-8').splitlines():
        name, _, version = line.partition('==')
        if name.strip() == distribution:
            return version.strip()
    raise SetupError(f'{display(constraints)} has no line {distribution}==...')


def build_environment() -> dict[str, str]:
    """Return the variables that pip and the compilation run under."""
    env = dict(os.environ)
    env.update(PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INPUT='1', PYTHONUNBUFFERED='1')
    env.setdefault('PIP_PROGRESS_BAR', 'off')
    compiler = find_compiler()
    if compiler and not shutil.which('c++'):
        env.setdefault('CXX', compiler)
    if 'MAX_JOBS' not in env:
        # mmcv would start four compilers, of up to 2 GB each, on any machine.
        cores = os.cpu_count() or 1
        if hasattr(os, 'sched_getaffinity'):
            cores = len(os.sched_getaffinity(0))
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
        env['MAX_JOBS'] = str(max(1, min(cores, int(memory / 2.2))))
    return env


def create_venv(venv: Path, stack: str, log_env: dict[str, str]) -> Path:
    """Create the environment, or take up the one that is there, and return its Python."""
    python = venv / 'bin' / 'python'
    if venv.exists() and any(venv.iterdir()) and not (venv / 'pyvenv.cfg').is_file():
        raise SetupError(f'{display(venv)} exists and is no virtual environment.')
    works = python.exists() and not run_quietly(python, 'import pip').returncode
    if works:
        version = run_quietly(python, 'import sys; print(*sys.version_info[:2])').stdout.split()
        if version != [str(part) for part in sys.version_info[:2]]:
            raise SetupError(
                f'{display(venv)} holds Python {".".join(version)}, this is '
                f'{platform.python_version()}: remove it, or name another with --venv.'
            )
    for other, facts in STACKS.items():
        pattern = f'lib/python*/site-packages/{facts["mmcv"].replace("-", "_")}-*.dist-info'
        if other != stack and any(venv.glob(pattern)):
            raise SetupError(
                f'{display(venv)} holds the {other} line, whose packages would be overwritten: '
                'remove it, or name another with --venv.'
            )
    if not works:
        say(f'Creating {display(venv)} (Python {platform.python_version()})')
        made = subprocess.run(
            [sys.executable, '-m', 'venv', str(venv)],
            env=log_env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if made.returncode:
            raise SetupError(f'Creating {display(venv)} failed:\n{made.stdout.strip()}')
    return python


def fingerprint(venv: Path, stack: str) -> str:
    """Hash all that the finished environment depends on."""
    digest = hashlib.sha256()
    for text in (stack, sys.version, sys.executable, str(ROOT), str(venv)):
        digest.update(text.encode() + b'\0')
    for path in (ROOT / 'setup.py', ROOT / 'constraints' / f'{stack}.txt'):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install_mmcv(
    python: Path, mmcv: str, version: str, pip: list[str], log: Path, env: dict[str, str]
) -> None:
    """Install mmcv with its operators, compiling them unless a wheel is at hand."""
    name = mmcv.replace('-', '_')
    distribution = run_quietly(python, f'from importlib.metadata import version; print(version("{mmcv}"))')
    if distribution.returncode == 0:
        right = distribution.stdout.strip() == version
        if right and run_quietly(python, CHECK_OPS).returncode == 0:
            say(f'{mmcv} {version} is there, with its operators')
            return
        # pip would leave what does not work where it is. That happens after a change of torch.
        subprocess.run(
            [str(python), '-m', 'pip', 'uninstall', '-qy', mmcv], env=env, stdin=subprocess.DEVNULL
        )
    wheel = local_wheel(mmcv, version)
    if wheel:
        say(f'A wheel saves compiling mmcv: {wheel}')
    else:
        check_build_tools()
        check_cuda_toolkit(python)
        say(
            f'Now {mmcv} {version}. No wheel of it exists for this torch, so its C++ operators '
            'are compiled here:\n10 to 20 minutes on two cores, longer with CUDA, and only this '
            'once: pip keeps what was built in its cache.'
        )
    requirement = f'{mmcv}=={version}'
    run_shown(f'2/3 {mmcv}', [*pip, '-v', '--no-build-isolation', requirement], log, env)
    result = run_quietly(python, CHECK_OPS)
    if result.returncode and wheel:
        # Such a wheel is right for the torch that it was built with, and for no other.
        say(f'The operators in {wheel} do not load beside this torch: compiling them instead.')
        check_build_tools()
        check_cuda_toolkit(python)
        # A wheel left in the cache would be taken again, now and in the next environment.
        subprocess.run(
            [str(python), '-m', 'pip', 'cache', 'remove', name],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        again = ['-v', '--no-build-isolation', '--no-deps', '--force-reinstall']
        again += ['--no-binary', mmcv, requirement]
        run_shown(f'2/3 {mmcv} from source', [*pip, *again], log, env)
        result = run_quietly(python, CHECK_OPS)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ['no message'])[-1]
        raise SetupError(
            f'{mmcv} {version} was installed, but its operators do not load ({reason}). Either '
            'they were built for another torch, or without torch in sight. Remove what was built '
            f'(pip cache remove {name}; rm -r {display(python.parent.parent)}) and try again. '
            f"pip's output: {display(log)}"
        )


def set_up(stack: str, venv: Path) -> None:
    """Bring the environment to the state that setup.py and the constraints describe.

    Raises:
        SetupError: Something that the user has to see to.
    """
    stamp = venv / 'mmiformer-stamp'
    wanted = fingerprint(venv, stack)
    if stamp.is_file() and stamp.read_text() == wanted and (venv / 'bin' / 'python').exists():
        return

    start = time.monotonic()
    check_python()
    mmcv = STACKS[stack]['mmcv']
    constraints = ROOT / 'constraints' / f'{stack}.txt'
    version = pinned(constraints, mmcv)
    env = build_environment()
    # Before anything is downloaded: it would be a pity to learn this after torch.
    built = any(venv.glob(f'lib/python*/site-packages/{mmcv.replace("-", "_")}-{version}.dist-info'))
    if not built and not local_wheel(mmcv, version):
        check_build_tools()

    stamp.unlink(missing_ok=True)
    python = create_venv(venv, stack, env)
    log = venv / 'setup.log'
    pip = [str(python), '-m', 'pip', 'install', '-c', str(constraints)]
    elsewhere = ('PIP_INDEX_URL', 'PIP_EXTRA_INDEX_URL', 'PIP_FIND_LINKS')
    if (
        sys.platform == 'linux'
        and platform.machine() == 'x86_64'
        and not shutil.which('nvidia-smi')
        and not any(name in env for name in elsewhere)
        and run_quietly(python, 'import torch').returncode
    ):
        say(
            'Note: this machine shows no NVIDIA GPU, and pip brings the CUDA build of torch, '
            'several GB. For the small CPU build stop here\nand run the same command with '
            f'PIP_EXTRA_INDEX_URL={CPU_INDEX}'
        )
    tools = ['torch', 'torchvision', 'ninja', 'numpy', 'packaging', 'setuptools', 'wheel']
    run_shown('1/3 torch and build tools', [*pip, *tools], log, env)
    install_mmcv(python, mmcv, version, pip, log, env)
    rest = f'.[{stack},test]'
    run_shown('3/3 the other packages', [*pip, '-e', rest], log, env)

    result = run_quietly(python, CHECK_ALL)
    library = re.search(r'ImportError: (lib\S+): cannot open shared object', result.stderr)
    if library:
        raise SetupError(
            f'Everything was installed, but OpenCV needs the system library {library[1]}. Install '
            'it (Debian, Ubuntu: sudo apt-get install libgl1 libglib2.0-0 libxcb1) and try again.'
        )
    if result.returncode:
        raise SetupError(
            'Everything was installed, but not everything loads:\n'
            f'{result.stderr.strip()[-2000:]}\n(docs/install.md, "When something fails")'
        )
    stamp.write_text(wanted)
    say(result.stdout.strip())
    say(f'{display(venv)} is ready after {duration(time.monotonic() - start)}')


def main() -> int:
    """Parse the command line, set up, and turn errors into a sentence and exit code 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument(
        '--stack',
        choices=list(STACKS),
        default='onedl',
        help="onedl: OneDL's maintained forks; openmmlab: the original releases (default: onedl)",
    )
    parser.add_argument(
        '--venv',
        type=Path,
        help='folder of the environment (default: .venv, or .venv-openmmlab)',
    )
    args = parser.parse_args()
    venv = args.venv or ROOT / STACKS[args.stack]['venv']
    try:
        set_up(args.stack, Path(os.path.abspath(venv)))
    except SetupError as error:
        print(f'setup_env: {error}', file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print('\nsetup_env: interrupted; the same command goes on from here.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
