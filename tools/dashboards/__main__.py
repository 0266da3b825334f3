"""Writes deploy/grafana/dashboards from the code beside this, or checks that they are up to date.

The alerts' texts come from docs/operations.md, so the runbook in Grafana is the one in docs.
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tools.dashboards import releases, runbook, serving

TARGET = Path(__file__).resolve().parent.parent.parent / "deploy" / "grafana" / "dashboards"
DASHBOARDS = {
    "releases": releases.dashboard,
    "runbook": runbook.dashboard,
    "serving": serving.dashboard,
}


def texts() -> dict[str, str]:
    """Answer what each file is to hold."""
    return {
        f"{name}.json": json.dumps(make().build(), cls=JSONEncoder, sort_keys=True, indent=2) + "\n"
        for name, make in DASHBOARDS.items()
    }


def main() -> None:
    """Write the dashboards, or with --check fail when they are stale."""
    there = {path.name: path.read_text() for path in TARGET.glob("*.json")}
    wanted = texts()
    if "--check" in sys.argv:
        if there != wanted:
            sys.exit("deploy/grafana/dashboards is stale: run `make dashboards` and commit")
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - wanted.keys():
        (TARGET / name).unlink()
    for name, text in wanted.items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
