"""The commands for people, run in this process."""

import json
import subprocess
import sys

import numpy as np
import pytest

from faiss_server.build_errors import BuildError
from faiss_server.command import run
from releases.layout import manifest_path
from releases.manifest import IndexInfo
from tests.faiss_server.making import make_release


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    random = np.random.default_rng(1)
    np.save(folder / "vectors.npy", random.normal(size=(2000, 8)).astype(np.float32))
    np.save(folder / "ids.npy", random.permutation(2000) + 5000)
    np.save(folder / "users.npy", random.normal(size=(300, 8)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def built(files):
    out = files / "built"
    arguments = ["--vectors", str(files), "--queries", str(files / "users.npy"), "--out", str(out)]
    assert run(["build", *arguments, "--spec", "IVF16,SQ8", "--recall", "0.9"]) == 0
    return out


def test_build_leaves_the_index_what_is_known_of_it_and_its_curve(built):
    info = IndexInfo.model_validate_json((built / "index.json").read_bytes())
    assert (info.type, info.lists) == ("IVF16,SQ8", 16)
    assert info.recall_at_200 > 0.88
    assert len(info.curve) > 2
    assert "<svg" in (built / "index.html").read_text()
    assert (built / "items.faiss").stat().st_size > 2000 * 8


def test_inspect_tells_kind_balance_memory_and_checksums(built, capsys):
    assert run(["inspect", str(built), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["articles"] == facts["articles reached by all lists"] == "2000"
    assert facts["lists"] == "16, 0 of them empty"
    assert facts["bytes of codes by article"] == "8"
    assert len(facts["sha256 of items.faiss"]) == 64
    assert run(["inspect", str(built)]) == 0


@pytest.fixture
def published(tmp_path):
    """A release in a store below `tmp_path`."""
    made = make_release(tmp_path, 1_700_000_000)
    path = tmp_path / manifest_path(made.manifest.release)
    path.parent.mkdir()
    path.write_text(made.manifest.model_dump_json())
    return made


def test_inspect_compares_a_stores_files_with_the_manifest(published, capsys):
    (published.home / "popular.npz").write_bytes(b"other")
    assert run(["inspect", str(published.home), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["sha256 of items.faiss"].endswith(" as in the manifest")
    assert facts["sha256 of popular.npz"].endswith(" NOT as in it")


@pytest.mark.parametrize("command", [["tune"], ["build", "--out"]])
def test_a_published_release_is_not_written_to(published, files, capsys, command):
    before = {file.name: file.read_bytes() for file in published.home.iterdir()}
    assert run([*command, str(published.home), "--vectors", str(files)]) == 1
    assert "never changes: take another folder, or a copy" in " ".join(
        capsys.readouterr().err.split()
    )
    assert {file.name: file.read_bytes() for file in published.home.iterdir()} == before


def test_search_asks_with_an_article_or_a_row(built, files, capsys):
    assert run(["search", str(built), "--article", "5003", "-k", "3"]) == 0
    assert run(["search", str(built), "--queries", str(files / "users.npy"), "--row", "7"]) == 0
    assert capsys.readouterr().out.count("│ 1     │") == 2
    for wrong in ([], ["--article", "1"], ["--queries", str(files / "users.npy"), "--row", "900"]):
        assert run(["search", str(built), *wrong]) == 1
        assert capsys.readouterr().err.strip()


def test_compare_counts_articles_and_neighbours_that_both_have(built, tmp_path, capsys):
    other = make_release(tmp_path, 1_700_000_000).home
    assert run(["compare", str(built), str(built), "-k", "20"]) == 0
    assert "1.000" in capsys.readouterr().out
    assert run(["compare", str(built), str(other)]) == 0
    assert "articles in both   │ 0" in capsys.readouterr().out


def test_tune_rewrites_what_is_known(built, files):
    before = IndexInfo.model_validate_json((built / "index.json").read_bytes())
    assert run(["tune", str(built), "--vectors", str(files), "--recall", "0.5"]) == 0
    after = IndexInfo.model_validate_json((built / "index.json").read_bytes())
    assert after.nprobe < before.nprobe
    assert after.type == before.type


def test_tuning_with_other_ids_changes_nothing(built, files, capsys):
    before = {file.name: file.read_bytes() for file in built.iterdir()}
    assert run(["tune", str(built), "--vectors", str(files / "vectors.npy")]) == 1
    assert "lacks 2000 of the 2000 ids, such as 0" in " ".join(capsys.readouterr().err.split())
    assert {file.name: file.read_bytes() for file in built.iterdir()} == before


def test_the_users_who_ask_are_drawn_from_the_whole_file_by_the_seed(
    built, files, tmp_path, monkeypatch
):
    users = np.repeat(np.arange(3000, dtype=np.float32)[:, None], 8, axis=1)
    np.save(tmp_path / "users.npy", users)
    goals = []

    def tune_index(_index, _vectors, _ids, goal, _on_progress):
        goals.append(goal)
        raise BuildError("seen")

    monkeypatch.setattr("faiss_server.command.tune_index", tune_index)
    for seed in ("1", "1", "2"):
        asked = ["--queries", str(tmp_path / "users.npy"), "--seed", seed]
        assert run(["tune", str(built), "--vectors", str(files), *asked]) == 1
    chosen = [goal.queries[:, 0].tolist() for goal in goals]
    held_out = [goal.held_out[:, 0].tolist() for goal in goals]
    assert (chosen[0], held_out[0]) == (chosen[1], held_out[1])
    assert chosen[0] != chosen[2]
    assert len({*chosen[0], *held_out[0]}) == 2000
    for group in (chosen[0], held_out[0]):
        assert np.mean(group) == pytest.approx(1500, abs=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spec", "HNSW8"], "not an IVF index"),
        (["--vectors", "nowhere.npy"], "nowhere.npy: is no .npy file"),
        (["--memory-gib", "0.000001"], "raise it, or name a coarser index"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(files, tmp_path, capsys, arguments, message):
    given = ["build", "--vectors", str(files), "--out", str(tmp_path / "out"), *arguments]
    assert run(given) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_wrong_option_is_no_traceback(capsys):
    assert run(["build", "--nonsense"]) == 2
    assert "No such option" in capsys.readouterr().err
    assert run(["build", "--help"]) == 0


def test_a_server_that_starts_imports_nothing_of_the_commands():
    code = (
        "import sys; import faiss_server.server, faiss_server.config\n"
        "print([m for m in ('typer', 'rich', 'faiss_server.build') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[]\n"
