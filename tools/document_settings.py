"""Writes docs/settings.md from the settings classes, or checks that it is up to date."""

import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from explorer.config import ExplorerSettings
from faiss_server.config import FaissServerSettings
from recommender.config import RecommenderSettings
from service_runtime.settings import SHARED, ServerSettings, default_text
from tf_serving.config import TfServingSettings

TARGET = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """\
# Settings

Read once from the environment at start. A missing, malformed or misspelt variable stops the process
with its name. Made from the settings classes by `make docs`; do not edit.
"""
COMMANDS = """\
## commands

What commands read; options on the command line come first.

| variable | default | meaning |
|---|---|---|
| `RELEASES_STORE` | none | `--store` of `releases`, `pipeline rollout` and `pipeline deploy`. |
| `KF_PIPELINES_ENDPOINT` | none | `--host` of `pipeline deploy`. |
| `KFP_TOKEN` | none | `--token` of `pipeline deploy`. |
| `HEALTH_PROBE_ADDRESS` | required | host:port that `service_runtime.health_probe` asks. |
| `HEALTH_PROBE_CA_FILE` | none | CA of the server's certificate, PEM: it is asked by TLS only. |
| `HEALTH_PROBE_CERT_FILE` | none | Certificate chain to show to a server that asks for one, PEM. |
| `HEALTH_PROBE_KEY_FILE` | none | Its key, PEM. |
| `HEALTH_PROBE_NAME` | `localhost` | What the server's certificate is for. |
| `QUICK` | none | Not empty: `make` targets that measure check their machinery only, in a minute. |
"""
SERVERS: dict[str, type[BaseSettings]] = {
    "recommender": RecommenderSettings,
    "faiss server": FaissServerSettings,
    "model server (the stand-in)": TfServingSettings,
    "explorer": ExplorerSettings,
}


def table(kind: type[BaseSettings]) -> str:
    """Lay out one server's settings as a Markdown table, its own before the shared ones."""
    prefix = str(kind.model_config.get("env_prefix"))
    shared = SHARED if issubclass(kind, ServerSettings) else ()
    own_first = sorted(kind.model_fields.items(), key=lambda field: field[0] in shared)
    rows = [f"| `{prefix}{name.upper()}` | {default(f)} | {meaning(f)} |" for name, f in own_first]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def default(field: FieldInfo) -> str:
    """Show the default; required ones say so."""
    text = default_text(field)
    literal = not field.is_required() and field.default_factory is None and text != "none"
    return f"`{text}`" if literal else text


def meaning(field: FieldInfo) -> str:
    """Show the description, and the choices where there are any."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    listed = " · ".join(f"`{choice}`" for choice in choices)
    return " ".join(filter(None, [field.description, listed]))


def main() -> None:
    """Write the page, or with --check fail when it is stale."""
    sections = [f"## {name}\n\n{table(kind)}\n" for name, kind in SERVERS.items()]
    text = "\n".join([HEAD, *sections, COMMANDS])
    if "--check" not in sys.argv:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.exit("docs/settings.md is stale: run `make docs` and commit")


if __name__ == "__main__":
    main()
