"""Running the tools as processes of their own, on one GPU or many."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmiformer.apis.configs import MIM

# Is told of iterations done and of all.
OnProgress = Callable[[int, int], None]

# mmengine's log: Epoch(test) [ 50/5000], Iter(train) [ 50/40000], Epoch(train) [1][ 50/7330].
_LOGGED = re.compile(r'\((?:test|train)\)\s+(?:\[\d+\])?\[\s*(\d+)/\s*(\d+)\]')
# How Python ends a traceback, of one process or of one rank.
_RAISED = re.compile(r'(?:\[rank\d+\]: )?([\w.]*(?:Error|Exception|Interrupt)\b.*)')


@dataclass(frozen=True)
class Launch:
    """How processes are started.

    Attributes:
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.
        gpus: Number of processes. Defaults to 1.
        partition: Slurm's. Defaults to None.
    """

    launcher: str = 'none'
    gpus: int = 1
    partition: str | None = None

    def command(self, tool: str, *arguments: str) -> list[str]:
        """The command that runs one of the tools.

        Args:
            tool: ``'train'`` or ``'test'``.
            arguments: Its arguments.
        """
        script = [str(MIM / 'tools' / f'{tool}.py'), *arguments]
        if self.launcher == 'none':
            return [sys.executable, '-u', *script]
        if self.launcher == 'pytorch':
            run = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={self.gpus}']
            return [sys.executable, '-u', *run, *script, '--launcher', 'pytorch']
        node = min(self.gpus, 8)
        run = [f'--partition={self.partition}'] if self.partition else []
        run += [f'--gres=gpu:{node}', f'--ntasks={self.gpus}', f'--ntasks-per-node={node}']
        return ['srun', *run, '--kill-on-bad-exit=1', sys.executable, '-u', *script, '--launcher', 'slurm']


def run_tool(command: list[str], log: Path, progress: OnProgress) -> str | None:
    """Runs a command to its end, its output into a log.

    Args:
        command: What to run.
        log: File to write.
        progress: Is told of iterations done and of all, as mmengine logs them.

    Returns:
        None if it succeeded, else why not, in a sentence.
    """
    lines: list[str] = []
    with log.open('w', encoding='utf-8') as file:
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace'
            )
        except OSError as error:
            return f'{command[0]}: cannot be started ({error.strerror}).'
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                lines.append(line.strip())
                if found := _LOGGED.search(line):
                    progress(int(found[1]), int(found[2]))
            code = process.wait()
        finally:
            if process.poll() is None:  # Interrupted.
                process.terminate()
                process.wait()
    return _reason(lines, code, log) if code else None


def _reason(lines: list[str], code: int, log: Path) -> str:
    """What the output of a command that failed says of why."""
    for line in lines:  # The first of several processes.
        if line.startswith('error: '):
            return line.removeprefix('error: ')
    raised = [found[1] for line in lines if (found := _RAISED.fullmatch(line))]
    spoken = [line for line in lines if re.search('[A-Za-z]', line)]
    last = next(iter(raised or reversed(spoken)), 'no output')
    how = 'killed by signal' if code < 0 else 'ended with exit code'
    return f'{how} {abs(code)}: {last[:300]} (see {log})'
