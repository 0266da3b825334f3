"""The SavedModel as the servers see it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter
from recsys.tfserving.v1.prediction_pb2 import PredictionLog

from pipeline.evaluate import Evaluation
from pipeline.exported import SIGNATURE, ExportedModel, ServedTower
from pipeline.gate import Decision
from pipeline.goldens import ask_goldens
from pipeline.index import IndexedArticles
from pipeline.options import RunOptions
from pipeline.prepared import PreparedData
from pipeline.publish import PublishedRelease
from pipeline.quality.report import _neighbours
from pipeline.steps import REQUIRES, STEPS, run_step
from releases.layout import ARTICLE_IDS_FILE, ARTICLE_VECTORS_FILE, WARMUP_FILE, Part

UNKNOWN = 999_999


def history_of(*ids):
    row = np.full((1, 50), -1, np.int64)
    row[0, : len(ids)] = ids
    return row


def ask(tower, history, region=-1):
    vectors, known = tower.user_vectors(history, np.array([region], np.int64))
    return vectors[0], int(known[0])


def test_the_signature_is_exactly_the_design_s(tiny_run):
    model = tf.saved_model.load(str(tiny_run.part(Part.MODEL)))
    assert list(model.signatures) == [SIGNATURE]
    signature = model.signatures[SIGNATURE]
    _, inputs = signature.structured_input_signature
    assert {n: (s.dtype, s.shape.as_list()) for n, s in inputs.items()} == {
        "history": (tf.int64, [None, 50]),
        "region": (tf.int64, [None]),
    }
    outputs = signature.structured_outputs
    assert {n: (s.dtype, s.shape.as_list()) for n, s in outputs.items()} == {
        "user_vector": (tf.float32, [None, 16]),
        "known": (tf.int32, [None]),
    }


def test_known_counts_the_ids_that_the_model_knows(tower, articles):
    a, b = articles.ids[:2]
    assert ask(tower, history_of(a, UNKNOWN, b, b))[1] == 3
    assert ask(tower, history_of(UNKNOWN))[1] == 0
    assert ask(tower, history_of())[1] == 0


def test_unknown_ids_change_nothing_wherever_they_stand(tower, articles):
    a, b, c = articles.ids[:3]
    plain, _ = ask(tower, history_of(a, b, c))
    for history in ([UNKNOWN, a, b, c], [a, UNKNOWN, UNKNOWN, b, c], [a, b, c, UNKNOWN]):
        assert np.allclose(ask(tower, history_of(*history))[0], plain, atol=1e-5)


def test_order_and_the_newest_view_matter(tower, articles):
    a, b = articles.ids[:2]
    assert not np.allclose(ask(tower, history_of(a, b))[0], ask(tower, history_of(b, a))[0])


def test_an_empty_history_gives_a_finite_vector(tower):
    assert np.isfinite(ask(tower, history_of())[0]).all()


def test_a_region_changes_the_vector_and_an_unknown_one_is_none(tower, articles, regions):
    history = history_of(articles.ids[0])
    nowhere, _ = ask(tower, history)
    somewhere, _ = ask(tower, history, int(regions.ids[0]))
    unheard_of, _ = ask(tower, history, 12_345)
    assert np.array_equal(nowhere, unheard_of)
    assert not np.allclose(nowhere, somewhere)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_rows_do_not_depend_on_their_batch(tower, sample, batch_size):
    users = np.arange(14)
    histories, regions = sample.test_histories(users), sample.target_regions[users]
    together, _ = tower.user_vectors(histories, regions)
    apart, _ = tower.user_vectors(histories, regions, batch_size)
    assert np.allclose(together, apart, atol=1e-5)


def test_ids_and_vectors_hold_the_articles_without_padding(tiny_run, articles):
    folder = tiny_run.part(Part.EMBEDDINGS)
    ids, vectors = np.load(folder / ARTICLE_IDS_FILE), np.load(folder / ARTICLE_VECTORS_FILE)
    assert ids.dtype == np.int64
    assert ids.tolist() == articles.ids.tolist()
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(ids), 16)
    assert vectors.flags.c_contiguous


def test_warm_up_records_are_requests_for_this_signature(tiny_run, tower):
    path = tiny_run.part(Part.MODEL) / WARMUP_FILE
    records = [
        PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
    ]
    requests = [record.predict_log.request for record in records]
    sizes = [request.inputs["history"].tensor_shape.dim[0].size for request in requests]
    assert sizes == [1, 4, 16]
    for request, size in zip(requests, sizes, strict=True):
        assert request.model_spec.name == "user_tower"
        assert request.model_spec.signature_name == "serving_default"
        assert not request.model_spec.HasField("version")
        content = request.inputs["history"].tensor_content
        history = np.frombuffer(content, "<i8").reshape(size, 50)
        region = np.frombuffer(request.inputs["region"].tensor_content, "<i8")
        assert tower.user_vectors(history, region)[1].min() > 0


DEBIAS = 0.5


@pytest.fixture(scope="module")
def debiased(tiny_run, tmp_path_factory):
    """The folders of a run that goes on from the same training with another export.

    The release in service has a dimension less.
    """
    folder = tmp_path_factory.mktemp("debiased")
    told = TypeAdapter(RunOptions).validate_json((tiny_run.workdir / "options.json").read_bytes())
    store = shutil.copytree(tiny_run.store, folder / "store")
    options = replace(told, popularity_debias=DEBIAS, store=str(store), release=told.release + 1)
    folders = {name: tiny_run.workdir / name for name in STEPS}
    for step in ("window", *STEPS[STEPS.index("export") :]):
        folders[step] = folder / step
        run_step(step, options, {name: folders[name] for name in REQUIRES[step]}, folders[step])
    return folders


def test_a_debiased_score_is_the_model_s_less_a_share_of_the_log_of_views(
    debiased, tiny_run, tower, articles, sample
):
    users = np.arange(20)
    histories, regions = sample.test_histories(users), sample.target_regions[users]
    exported = ExportedModel.load(debiased["export"])
    vectors, _ = ServedTower(exported.saved_model).user_vectors(histories, regions)
    plain, _ = tower.user_vectors(histories, regions)
    assert exported.dimension == vectors.shape[1] == 17
    assert (vectors[:, -1] == 1).all()
    assert np.array_equal(vectors[:, :-1], plain)
    scores = plain @ ExportedModel.load(tiny_run.workdir / "export").article_vectors().T
    lowered = scores - vectors @ exported.article_vectors().T
    expected = DEBIAS * np.log(articles.counts)
    assert np.allclose(lowered, expected - expected.mean(), atol=1e-4)


def test_the_nearest_articles_of_a_report_do_not_go_by_popularity(debiased, tiny_run, tmp_path):
    for step, folder in debiased.items():
        (tmp_path / step).symlink_to(folder)
    assert _neighbours(tmp_path, 16) == _neighbours(tiny_run.workdir, 16)
    assert _neighbours(tmp_path, 17) != _neighbours(tiny_run.workdir, 16)


def test_a_release_is_compared_with_one_of_another_dimension(debiased, tiny_run):
    evaluation = Evaluation.load(debiased["evaluate"])
    assert evaluation.in_service_release == tiny_run.result.release
    assert evaluation.in_service == tiny_run.result.evaluation.model
    checks = {check.name for check in Decision.load(debiased["gate"]).checks}
    assert any("on the same users" in name for name in checks)


def test_a_debiased_release_holds_together(debiased, tiny_run):
    manifest = PublishedRelease.load(debiased["publish"]).manifest
    assert manifest.dimension == 17
    assert manifest.release == tiny_run.result.release + 1
    assert manifest.model_signature.outputs["user_vector"].shape == (-1, 17)
    assert {len(query.vector) for query in manifest.golden_queries} == {17}
    assert {query.vector[-1] for query in manifest.golden_queries} == {1.0}
    exported, indexed = (
        ExportedModel.load(debiased["export"]), IndexedArticles.load(debiased["index"]),
    )  # fmt: skip
    goldens = ask_goldens(exported, indexed, PreparedData.load(debiased["preprocess"]))
    assert goldens.agreement(exported) == 1
