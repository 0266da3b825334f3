"""An environment for each system: its packages beside nothing of ours but its client."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import loadtest
from loadtest.errors import LoadTestError

__all__ = ["OWN", "Environment", "UnavailableError", "environment_of"]

_DONE: Final = "installed"


class UnavailableError(LoadTestError):
    """A system cannot be had on this machine; the message is the reason. The others go on."""


@dataclass(frozen=True)
class Environment:
    """A Python, and where it finds its client."""

    python: str
    path: str | None
    """PYTHONPATH; None where it finds everything."""

    @property
    def variables(self) -> dict[str, str]:
        """What its programs are to have in their environment."""
        return {} if self.path is None else {"PYTHONPATH": self.path, "PYTHONSAFEPATH": "1"}


OWN: Final = Environment(sys.executable, None)


def environment_of(name: str, packages: Sequence[str] | None, cache: Path) -> Environment:
    """Install the packages below the cache, unless they are; None is this very environment.

    Raises UnavailableError where they cannot be installed.
    """
    if packages is None:
        return OWN
    recipe = hashlib.sha256("\n".join([sys.version, *packages]).encode()).hexdigest()[:12]
    home = (cache / f"environment-{name}-{recipe}").resolve()
    if not (home / _DONE).exists():
        _install(home, packages)
    return Environment(str(home / "bin" / "python"), str(_client_code(cache)))


def _install(home: Path, packages: Sequence[str]) -> None:
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(home)], home)
    python = str(home / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    if packages:
        _run([*pip, "install", "--quiet", "--no-input", *packages], home)
    (home / _DONE).touch()


def _run(command: Sequence[str], home: Path) -> None:
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    home.mkdir(parents=True, exist_ok=True)
    (home / "install.log").write_text(ended.stdout + ended.stderr)
    if ended.returncode != 0:
        raise UnavailableError(f"cannot be installed: {_reason(ended.stderr)}")


def _reason(output: str) -> str:
    """Answer pip's last error: its warnings tell this machine's addresses, which are no reason."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return errors[-1] if errors else "pip gave no reason; see install.log below build/cache/peers"


def _client_code(cache: Path) -> Path:
    """Answer a folder that holds this package and nothing else of what is installed beside it."""
    folder = (cache / "code").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / loadtest.__name__
    target = Path(loadtest.__file__).parent
    if not link.exists() or link.resolve() != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return folder
