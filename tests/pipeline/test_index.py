"""The number of probed lists is chosen on some users, the stated recall is that of others."""

import numpy as np
import pytest

import pipeline.index
from faiss_server.build import build_index, exact_top_k
from pipeline.index import index_articles


def clusters(centres, count, seed):
    random = np.random.default_rng(seed)
    points = centres[random.integers(len(centres), size=count)]
    return (points + 0.3 * random.normal(size=points.shape)).astype(np.float32)


def test_the_stated_recall_is_that_of_the_queries_that_were_held_out():
    centres = np.random.default_rng(0).normal(size=(40, 16))
    vectors, ids = clusters(centres, 6_000, 1), np.arange(6_000)
    easy, hard = clusters(centres[:1], 100, 2), clusters(np.zeros((1, 16)), 100, 3)
    built = build_index(vectors, ids, easy, held_out=hard, recall_target=0.9)
    _, found = built.index.search(hard, 200)
    exact = exact_top_k(vectors, hard, 200)
    shares = [np.isin(row, wanted).mean() for row, wanted in zip(found, exact, strict=True)]
    assert built.info.recall_at_200 == pytest.approx(np.mean(shares))
    alone = build_index(vectors, ids, easy, recall_target=0.9)
    assert alone.info.nprobe == built.info.nprobe
    assert alone.info.recall_at_200 > built.info.recall_at_200


def test_a_run_holds_half_of_the_users_out(tiny_run, monkeypatch, tmp_path):
    given = {}

    def build(vectors, ids, queries, *, held_out, **options):
        given.update(queries=queries, held_out=held_out)
        return build_index(vectors, ids, queries, held_out=held_out, **options)

    monkeypatch.setattr(pipeline.index, "build_index", build)
    result = tiny_run.result
    exported = pipeline.index.ExportedModel.load(tiny_run.workdir / "export")
    index_articles(exported, result.prepared, result.collected, tmp_path)
    # Each user is asked with the region and without.
    assert len(given["queries"]) == pytest.approx(len(given["held_out"]), abs=2)
    assert len(given["queries"]) + len(given["held_out"]) == 2 * result.collected.user_count


def test_the_kind_of_index_can_be_named_and_its_curve_is_kept(tiny_run, tmp_path):
    exported = pipeline.index.ExportedModel.load(tiny_run.workdir / "export")
    result = tiny_run.result
    for options in ({"spec": "IVF2,SQfp16"}, {"memory_bytes": 1 << 30}):
        indexed = index_articles(
            exported, result.prepared, result.collected, tmp_path, recall_target=0.9, **options
        )
        assert indexed.info.type == options.get("spec", result.indexed.info.type)
        assert indexed.info.curve
        indexed.save()
        assert pipeline.index.IndexedArticles.load(tmp_path).info == indexed.info
    assert result.manifest.index.curve == result.indexed.info.curve
