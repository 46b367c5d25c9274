"""Keeps one of Flower's long-lived processes: its output in files that rotate, its end complete.

Run by ``fedkim server start`` and ``fedkim site start``; it ends when the process ends, with the
same exit code and with everything that the process had started, and passes SIGTERM and SIGINT on.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from logging import makeLogRecord
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path
from typing import IO

import psutil

STOP_SECONDS = 15.0
"""From the polite signal to the other one."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LAST_LINES = 2.0
"""Seconds in which a process that has ended may still be heard."""
CHILD_SUBREAPER = 36
"""Of Linux's prctl: orphans below this process become its children, and can so be found."""


def keep(command: list[str], *, pid_file: Path, log: Path, days: int, echo: bool) -> int:
    """Run a command until it ends; returns its exit code.

    Args:
        command: inherits this process's environment and directory.
        pid_file: holds this process's number while it runs.
        log: gets every line that the command prints; a new file each midnight.
        days: how many of the older files are kept.
        echo: print the lines here as well.
    """
    os.umask(0o077)  # the log of a site may quote a record
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1)
    handler = TimedRotatingFileHandler(log, when="midnight", backupCount=days, encoding="utf-8")
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on
    )
    own = psutil.Process()
    pid_file.write_text(json.dumps({"pid": own.pid, "created": own.create_time()}))

    def end(*_: object) -> None:
        child.terminate()
        patience = threading.Timer(STOP_SECONDS, child.kill)
        patience.daemon = True
        patience.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    # A thread, as the pipe stays open while anything that the child has started lives.
    pump = threading.Thread(target=_pump, args=(child.stdout, handler, echo), daemon=True)
    pump.start()
    try:
        return child.wait()
    finally:
        remaining = own.children(recursive=True)
        _, remaining = psutil.wait_procs(remaining, timeout=LAST_LINES)
        _kill(remaining)
        pump.join(LAST_LINES)
        pid_file.unlink(missing_ok=True)


def _pump(lines: IO[str] | None, handler: TimedRotatingFileHandler, echo: bool) -> None:
    for line in lines or ():
        handler.emit(makeLogRecord({"msg": COLOUR.sub("", line.rstrip("\n"))}))
        if echo:
            print(line, end="", flush=True)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue  # already gone: that is what we want


def main() -> None:
    pid_file, log, days, echo, *command = sys.argv[1:]
    sys.exit(
        keep(command, pid_file=Path(pid_file), log=Path(log), days=int(days), echo=echo == "echo")
    )


if __name__ == "__main__":
    main()
