"""Finds the processes that a test started, directly or not, by a mark in their environment."""

import os
import uuid
from pathlib import Path

MARK = "RECSYS_TEST_MARK"


def new_mark() -> str:
    return uuid.uuid4().hex


def marked_processes(mark: str) -> dict[int, str]:
    """Answer the command lines of live processes that carry the mark, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
