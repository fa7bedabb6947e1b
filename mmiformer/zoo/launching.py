"""Runs the training and test tools in new processes."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from mmiformer.utils.errors import UserError

_running: set[subprocess.Popen[str]] = set()

OnProgress = Callable[..., object]  # Called with the numbers of iterations ``completed`` and in ``total``.

# Iterations in mmengine's log: Epoch(test) [ 50/5000], Iter(train) [ 50/40000], Epoch(train) [1][ 50/7330].
_ITERATION = re.compile(r'\((?:test|train)\)\s+(?:\[\d+\])?\[\s*(\d+)/\s*(\d+)\]')
# The tools' own errors, and the end of a traceback; torchrun puts the rank before it.
_ERROR = re.compile(r'(?:\[rank\d+\]: )?(?:error: (.+)|([\w.]*(?:Error|Exception|Interrupt)\b.*))')


def run_tool(command: list[str], log: Path, progress: OnProgress) -> float:
    """Runs a command and writes its output to a log.

    Args:
        command: The command.
        log: File to write.
        progress: Called with the iterations that mmengine logs.

    Returns:
        Seconds of CPU time of the command and all processes that it started.

    Raises:
        UserError: If the command fails, with the error that it prints.
    """
    error = last = None
    with (
        log.open('w', encoding='utf-8') as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace'
        ) as process,
    ):
        _running.add(process)
        try:
            for line in process.stdout or ():
                print(line, end='', file=file, flush=True)
                last = line.strip() or last
                if found := _ITERATION.search(line):
                    progress(completed=int(found[1]), total=int(found[2]))
                elif found := _ERROR.fullmatch(line.strip()):
                    error = error or found[1] or found[2]  # That of the first process to fail.
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.terminate()
            raise
        finally:
            _running.discard(process)
    if process.returncode:
        reason = (error or last or 'no output').rstrip('.')
        raise UserError(log, f'exit code {process.returncode}: {reason:.300}')
    return used.ru_utime + used.ru_stime


def terminate() -> None:
    """Ends all commands that run, also those that other threads wait for."""
    for process in list(_running):
        process.terminate()
