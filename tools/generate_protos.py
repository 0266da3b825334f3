"""Generates protos/gen from protos/recsys, or checks that it is what they generate."""

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent.parent / "protos"
# Messages of TensorFlow Serving: its own service names, so no stubs of ours.
WITHOUT_SERVICES = "tfserving"


def generate(into: Path) -> None:
    """Write modules and type stubs for every proto file below `into`.

    Raises SystemExit when the compiler refuses a file.
    """
    sources = sorted((PROTOS / "recsys").rglob("*.proto"))
    includes = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
    plugins = [
        f"--plugin={name}={Path(sys.executable).parent / name}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    for source in sources:
        outputs = [*plugins, f"--python_out={into}", f"--mypy_out=quiet:{into}"]
        if WITHOUT_SERVICES not in source.parts:
            outputs += [f"--grpc_python_out={into}", f"--mypy_grpc_out=quiet:{into}"]
        if protoc.main(["protoc", *includes, *outputs, str(source)]) != 0:
            sys.exit(f"protoc refused {source}")
    for folder in (into / "recsys", *(p for p in (into / "recsys").rglob("*") if p.is_dir())):
        (folder / "__init__.py").touch()
    (into / "recsys" / "py.typed").touch()


def differences(left: Path, right: Path) -> list[str]:
    """Name the files that are not the same below both folders."""
    names = {
        p.relative_to(root)
        for root in (left, right)
        for p in root.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    return sorted(
        str(name)
        for name in names
        if not ((left / name).exists() and (right / name).exists())
        or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("into", type=Path)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        if not arguments.check:
            shutil.rmtree(arguments.into, ignore_errors=True)
            shutil.copytree(scratch, arguments.into)
        elif stale := differences(Path(scratch), arguments.into):
            sys.exit(f"protos/gen is stale ({', '.join(stale)}): run `make proto` and commit")


if __name__ == "__main__":
    main()
