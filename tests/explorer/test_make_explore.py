"""`up` writes down what `make explore` reads."""

import subprocess

from local_stack.explorer_settings import forget_explorer_settings, write_explorer_settings
from local_stack.stack import Address
from local_stack.views import UserViews

ADDRESSES = {
    "recommender": Address(1001, 0, 0),
    "faiss-server": Address(1002, 0, 0),
    "model-server": Address(1003, 0, 0),
}


def read_by_shell(directory, **environment) -> dict[str, str]:
    """As the Makefile reads it."""
    script = 'set -a; . "$0"; env'
    command = ["bash", "-c", script, str(directory / "explorer.env")]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    pairs = (line.split("=", 1) for line in output.stdout.splitlines())
    return {name: value for name, value in pairs if name.startswith("EXPLORER_")}


def test_addresses_titles_and_some_users(tmp_path):
    odd = ["ada", "o'hara", "a,b", "$HOME}`x`"]
    users = [UserViews(user, [1], [1]) for user in [*odd, *map(str, range(30))]]
    write_explorer_settings(tmp_path, ADDRESSES, {5: 'A "title", and more'}, users)
    told = read_by_shell(tmp_path)
    assert told["EXPLORER_RECOMMENDER"] == "127.0.0.1:1001"
    assert told["EXPLORER_FAISS_SERVERS"] == "127.0.0.1:1002"
    assert told["EXPLORER_MODEL_SERVERS"] == "127.0.0.1:1003"
    assert told["EXPLORER_USERS"].split(",")[:4] == ["ada", "o'hara", "$HOME}`x`", "0"]
    assert len(told["EXPLORER_USERS"].split(",")) == 12
    assert told["EXPLORER_ITEMS"] == str(tmp_path / "items.csv")
    items = (tmp_path / "items.csv").read_text().splitlines()
    assert items == ["item_id,title", '5,"A ""title"", and more"']


def test_the_environment_comes_first(tmp_path):
    write_explorer_settings(tmp_path, ADDRESSES, {}, [])
    told = read_by_shell(tmp_path, EXPLORER_RECOMMENDER="elsewhere:1")
    assert told["EXPLORER_RECOMMENDER"] == "elsewhere:1"
    assert "EXPLORER_ITEMS" not in told


def test_a_stack_that_has_ended_is_forgotten(tmp_path):
    write_explorer_settings(tmp_path, ADDRESSES, {}, [])
    forget_explorer_settings(tmp_path)
    forget_explorer_settings(tmp_path)
    assert not (tmp_path / "explorer.env").exists()
