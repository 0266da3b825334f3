"""What `make explore` needs to know of a stack that `up` started: a file for the shell to read."""

import csv
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_stack.stack import Address
from local_stack.views import UserViews

__all__ = ["forget_explorer_settings", "write_explorer_settings"]

_EXAMPLES = 12


def write_explorer_settings(
    directory: Path,
    addresses: Mapping[str, Address],
    titles: Mapping[int, str],
    views: Sequence[UserViews],
) -> None:
    """Write `explorer.env`, and the titles, if any, as the CSV that it names.

    What is set in the environment already counts more than what stands there.
    """
    settings = {
        "EXPLORER_RECOMMENDER": addresses["recommender"].target,
        "EXPLORER_FAISS_SERVERS": addresses["faiss-server"].target,
        "EXPLORER_MODEL_SERVERS": addresses["model-server"].target,
        "EXPLORER_USERS": ",".join(_examples(views)),
    }
    if titles:
        items = (directory / "items.csv").resolve()
        _write_items(items, titles)
        settings["EXPLORER_ITEMS"] = str(items)
    lines = [f"{name}=${{{name}-{shlex.quote(value)}}}\n" for name, value in settings.items()]
    _file(directory).write_text("".join(lines))


def forget_explorer_settings(directory: Path) -> None:
    """Remove the file: the stack that it tells of has ended."""
    _file(directory).unlink(missing_ok=True)


def _file(directory: Path) -> Path:
    return directory / "explorer.env"


def _examples(views: Sequence[UserViews]) -> list[str]:
    """Name some users; the setting's commas part them."""
    return [user.user_id for user in views if "," not in user.user_id][:_EXAMPLES]


def _write_items(path: Path, titles: Mapping[int, str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["item_id", "title"])
        out.writerows(titles.items())
