"""What `make` says to a Python that the locked packages are not for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parent.parent / "Makefile"


def install(directory, version):
    """Run `make install` with this interpreter under the name of another version."""
    python = directory / "some-python"
    shown = ".".join(map(str, version))
    pretend = f"import sys; sys.version_info = {version}; sys.version = '{shown}'"
    python.write_text(
        "#!/bin/sh\n"
        'if [ "$1" != -c ]; then echo "$@"; exit 3; fi\n'
        f'exec {sys.executable} -c "{pretend}; exec(sys.argv[2])" "$@"\n'
    )
    python.chmod(0o755)
    (directory / "requirements").mkdir()
    (directory / "requirements" / "all.txt").touch()
    (directory / "pyproject.toml").touch()
    command = ["make", "--file", str(MAKEFILE), "install", f"PYTHON={python}"]
    # Run by make itself, these tests would be told so, and this make would talk of directories.
    environment = {
        name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"
    }
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 4), (3, 14, 0)])
def test_another_python_is_refused_in_one_line_before_anything_is_made(tmp_path, version):
    ended = install(tmp_path, version)
    assert ended.returncode != 0
    assert ended.stdout == ""
    shown = ".".join(map(str, version))
    told = [line for line in ended.stderr.splitlines() if not line.startswith("make")]
    advice = "3.11, 3.12 or 3.13 is needed: make PYTHON=python3.13 ..."
    assert told == [f"{tmp_path}/some-python is Python {shown}; {advice}"]


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 13, 9)])
def test_a_supported_python_makes_the_environment(tmp_path, version):
    assert "-m venv .venv" in install(tmp_path, version).stdout
