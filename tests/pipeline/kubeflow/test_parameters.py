"""A run's options, flattened for Kubeflow and put together again in its tasks."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.kubeflow.parameters import parameters_of, run_options
from pipeline.options import (
    BigQueryOptions,
    CollectOptions,
    GateOptions,
    PreprocessOptions,
    RunOptions,
    TrainOptions,
)

names = st.text("abc./:_*-", min_size=1)
counts = st.integers(1, 10**9)
shares = st.floats(0, 1)
paths = st.none() | st.builds(Path, names)
some = st.floats(0.5, 1000)

bigquery = st.builds(
    BigQueryOptions,
    project=names, source=names, views=names, export_url=names,
    location=st.none() | names, max_bytes_billed=st.none() | counts,
)  # fmt: skip
options = st.builds(
    RunOptions,
    events=paths,
    items=st.none() | names,
    store=names,
    collect=st.builds(
        CollectOptions,
        views=paths, bigquery=st.none() | bigquery, look_back_days=st.integers(0, 9),
        max_user_views=st.integers(2, 10**9), event_name=st.text("abc_1", min_size=1, max_size=40),
        popular_half_life_days=st.none() | some,
        article_param=st.just("article_id"), region_param=st.just("region_id"),
    ),
    window_days=st.none() | some,
    release=st.none() | counts,
    preprocess=st.builds(
        lambda split, **others: PreprocessOptions(split=split[0], split_since=split[1], **others),
        split=st.just(("last-view", None)) | st.tuples(st.just("time"), st.none() | counts),
        min_article_views=counts, min_user_views=counts, max_test_users=counts,
        beam_arguments=st.lists(names).map(tuple),
    ),
    train=st.builds(
        TrainOptions,
        dimension=st.integers(4, 1024), hidden_units=st.lists(counts).map(tuple),
        dropout=st.none(), history_dropout=st.just(0.3), region_dropout=st.just(0.3),
        learning_rate=st.floats(1e-6, 1),
        batch_size=st.none() | counts, max_train_seconds=some, max_epochs=st.none() | counts,
        model=st.sampled_from([None, "mean-pooling", "transformer"]),
        patience=st.just(4), seed=st.integers(),
    ),
    gate=st.builds(
        GateOptions,
        max_drop=shares, max_fall=shares, max_shrink=shares, min_recall=st.just(0.9),
        max_age_hours=st.none() | some, publish_anyway=st.booleans(),
    ),
    popularity_debias=shares,
    remove_seen=st.booleans(),
    recall_target=st.just(0.9),
    index_spec=names,
    index_memory_gib=st.none() | some,
)  # fmt: skip


@given(options)
def test_nothing_is_lost_on_the_way(given_options: RunOptions):
    parameters = parameters_of(given_options)
    assert run_options(**parameters) == given_options
    assert None not in parameters.values()  # Kubeflow's have a type


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"train": TrainOptions(patience=9)}, "train.patience"),
        ({"collect": CollectOptions(article_param="item")}, "collect.article_param"),
        ({"gate": GateOptions(min_recall=0.5)}, "gate.min_recall"),
    ],
)
def test_an_option_without_a_parameter_is_refused(changed, name):
    plain = RunOptions(events=Path("e.csv"), items=None, store="store")
    parameters_of(plain)
    with pytest.raises(PipelineError, match=f"no parameter for {name}"):
        parameters_of(replace(plain, **changed))


def test_a_task_is_given_only_what_it_reads():
    assert run_options(min_user_views=3).preprocess == PreprocessOptions(min_user_views=3)
    assert run_options(min_user_views=3).train == TrainOptions()


@pytest.mark.parametrize(
    "parameters",
    [
        {"split": "random"},
        {"split": "last-view", "split_since": 1},
        {"dimension": "many"},
        {"bigquery": {"project": "shop"}},
        {"colour": 1},
    ],
)
def test_a_value_that_is_none_is_refused(parameters):
    with pytest.raises((ValidationError, PipelineError)):
        run_options(**parameters)
