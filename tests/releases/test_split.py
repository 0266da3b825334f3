"""A split: read from the command line, stored, read back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from releases.__main__ import main
from releases.errors import ReleaseError
from releases.split import Split, parse_split, read_split_argument
from releases.store import ReleaseStore


@given(
    st.builds(
        Split,
        release=st.integers(1, 2**63 - 1),
        share=st.floats(0, 1),
        changed_at_ms=st.integers(0, 2**63 - 1),
    )
)
def test_a_split_survives_being_stored(split):
    assert parse_split(split.model_dump_json().encode(), "here") == split


@pytest.mark.parametrize(
    "text",
    ["", "5", "5=", "5=10", "0=10%", "-5=10%", "5=101%", "5=-1%", "5=x%", f"{2**63}=10%"],
)
def test_what_is_no_split_is_refused(text):
    with pytest.raises(ReleaseError, match="RELEASE=SHARE%"):
        read_split_argument(text)


def test_the_command_sets_the_split_and_a_later_one_replaces_it(tmp_path, capsys):
    store = ReleaseStore(str(tmp_path))
    assert store.split() is None
    assert main(["split", "1700000000=10%", "--store", str(tmp_path)]) == 0
    first = store.split()
    assert (first.release, first.share) == (1700000000, 0.1)
    assert main(["split", "1700000000=100%", "--store", str(tmp_path)]) == 0
    second = store.split()
    assert (second.share, second.changed_at_ms >= first.changed_at_ms) == (1.0, True)
    assert "100.0% of the users" in capsys.readouterr().out
    assert store.published() == []


def test_a_wrong_split_is_one_line(tmp_path, capsys):
    assert main(["split", "newest=10%", "--store", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("share", 2), ("release", 2**63), ("changed_at_ms", 2**63), ("from_the_future", 1)],
)
def test_a_malformed_file_is_named(tmp_path, field, value):
    document = {"release": 1, "share": 0.5, "changed_at_ms": 7} | {field: value}
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "split.json").write_text(json.dumps(document))
    with pytest.raises(ReleaseError, match=rf"split\.json: {field}: "):
        ReleaseStore(str(tmp_path)).split()


def test_a_bucket_holds_a_split_too():
    store = ReleaseStore("memory://split")
    split = Split(release=1, share=0.5, changed_at_ms=7)
    store.set_split(split)
    assert store.split() == split
