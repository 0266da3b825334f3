#!/bin/sh
# Installs the locked packages and ours into /opt/venv, as it is copied into an image: without pip,
# and with bytecode, which a read-only file system lets nobody write later.
set -eu
/opt/venv/bin/pip install --quiet --no-deps --no-compile --requirement requirements.txt
/opt/venv/bin/pip install --quiet --no-deps --no-compile /wheels/*.whl
/opt/venv/bin/pip uninstall --quiet --yes pip setuptools
python3 -m compileall -q /opt/venv/lib > /dev/null || true # some packages carry files for other Pythons
