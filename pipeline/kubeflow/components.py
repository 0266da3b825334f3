"""Each step of `pipeline.steps` as a component of Kubeflow's, and the report of a run's end.

A component's body is copied into the pipeline's file and runs in a container of the task's image;
all it does is to call `pipeline.kubeflow.task` there. So this module has no other code.
"""

from functools import partial
from typing import Any, Final

from kfp import dsl
from kfp.dsl import (
    HTML,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    Markdown,
    Metrics,
    Model,
    Output,
    PipelineTaskFinalStatus,
)

__all__ = [
    "collect",
    "copy",
    "evaluate",
    "export",
    "gate",
    "index",
    "preprocess",
    "publish",
    "report",
    "train",
    "window",
]

_BASE_IMAGE: Final = "recsys-pipeline-python"
"""Stands in each component until `workflow` names the image."""

_component: Final = partial(
    dsl.component, base_image=_BASE_IMAGE, install_kfp_package=False, packages_to_install=[]
)


@_component
def window(store: str, release: int, window_days: float, window: Output[Artifact]) -> None:
    from pipeline.kubeflow.task import run_task

    run_task("window", {}, window.path, store=store, release=release, window_days=window_days)


@_component
def collect(
    window: Input[Artifact],
    events: str,
    items: str,
    views: str,
    bigquery: dict[str, Any],
    look_back_days: int,
    max_user_views: int,
    popular_half_life_days: float,
    event_name: str,
    collected: Output[Dataset],
) -> None:
    from pipeline.kubeflow.task import run_task

    run_task(
        "collect",
        {"window": window.path},
        collected.path,
        events=events,
        items=items,
        views=views,
        bigquery=bigquery,
        look_back_days=look_back_days,
        max_user_views=max_user_views,
        popular_half_life_days=popular_half_life_days,
        event_name=event_name,
    )


@_component
def preprocess(
    collected: Input[Dataset],
    min_article_views: int,
    min_user_views: int,
    split: str,
    split_since: int,
    max_test_users: int,
    beam: list[str],
    prepared: Output[Dataset],
) -> None:
    from pipeline.kubeflow.task import run_task

    run_task(
        "preprocess",
        {"collect": collected.path},
        prepared.path,
        min_article_views=min_article_views,
        min_user_views=min_user_views,
        split=split,
        split_since=split_since,
        max_test_users=max_test_users,
        beam=beam,
    )


@_component
def train(
    prepared: Input[Dataset],
    dimension: int,
    hidden_units: list[int],
    learning_rate: float,
    batch_size: int,
    max_train_seconds: float,
    max_epochs: int,
    model: str,
    seed: int,
    trained: Output[Model],
    mlpipeline_ui_metadata: Output[Artifact],
) -> None:
    from pipeline.kubeflow.task import link_tensorboard, remove_checkpoints, run_task

    run_task(
        "train",
        {"preprocess": prepared.path},
        trained.path,
        dimension=dimension,
        hidden_units=hidden_units,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_train_seconds=max_train_seconds,
        max_epochs=max_epochs,
        model=model,
        seed=seed,
    )
    remove_checkpoints(trained.path)
    link_tensorboard(trained.uri, mlpipeline_ui_metadata.path)


@_component
def export(
    window: Input[Artifact],
    prepared: Input[Dataset],
    trained: Input[Model],
    popularity_debias: float,
    exported: Output[Model],
) -> None:
    from pipeline.kubeflow.task import run_task

    inputs = {"window": window.path, "preprocess": prepared.path, "train": trained.path}
    run_task("export", inputs, exported.path, popularity_debias=popularity_debias)


@_component
def evaluate(
    prepared: Input[Dataset],
    exported: Input[Model],
    store: str,
    keep_seen: bool,
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    from pipeline.kubeflow.task import run_task, show_evaluation

    inputs = {"preprocess": prepared.path, "export": exported.path}
    run_task("evaluate", inputs, evaluation.path, store=store, keep_seen=keep_seen)
    show_evaluation(evaluation.path, metrics)


@_component
def index(
    collected: Input[Dataset],
    prepared: Input[Dataset],
    exported: Input[Model],
    recall_target: float,
    index_spec: str,
    index_memory_gib: float,
    indexed: Output[Artifact],
    samples: Output[HTML],
    samples_text: Output[Markdown],
) -> None:
    from pipeline.kubeflow.task import run_task, show_samples

    inputs = {"collect": collected.path, "preprocess": prepared.path, "export": exported.path}
    run_task(
        "index",
        inputs,
        indexed.path,
        recall_target=recall_target,
        index_spec=index_spec,
        index_memory_gib=index_memory_gib,
    )
    show_samples(indexed.path, samples.path, samples_text.path)


@_component
def copy(exported: Input[Model], store: str, copied: Output[Artifact]) -> None:
    from pipeline.kubeflow.task import run_task

    run_task("copy", {"export": exported.path}, copied.path, store=store)


@_component
def gate(
    prepared: Input[Dataset],
    exported: Input[Model],
    evaluation: Input[Artifact],
    indexed: Input[Artifact],
    copied: Input[Artifact],
    store: str,
    recall_target: float,
    max_drop: float,
    max_fall: float,
    max_shrink: float,
    max_age_hours: float,
    publish_anyway: bool,
    decision: Output[Artifact],
    checks: Output[Metrics],
    hits: Output[ClassificationMetrics],
) -> None:
    from pipeline.kubeflow.task import run_task, show_classification, show_decision

    run_task(
        "gate",
        {
            "preprocess": prepared.path,
            "export": exported.path,
            "evaluate": evaluation.path,
            "index": indexed.path,
            "copy": copied.path,
        },
        decision.path,
        store=store,
        recall_target=recall_target,
        max_drop=max_drop,
        max_fall=max_fall,
        max_shrink=max_shrink,
        max_age_hours=max_age_hours,
        publish_anyway=publish_anyway,
    )
    show_decision(decision.path, checks)
    show_classification(evaluation.path, hits)


@_component
def publish(
    prepared: Input[Dataset],
    exported: Input[Model],
    evaluation: Input[Artifact],
    indexed: Input[Artifact],
    decision: Input[Artifact],
    store: str,
    published: Output[Artifact],
) -> None:
    from pipeline.kubeflow.task import run_task

    inputs = {
        "preprocess": prepared.path,
        "export": exported.path,
        "evaluate": evaluation.path,
        "index": indexed.path,
        "gate": decision.path,
    }
    run_task("publish", inputs, published.path, store=store)


@_component
def report(
    status: PipelineTaskFinalStatus, store: str, notify_url: str, summary: Output[Markdown]
) -> None:
    from pipeline.kubeflow.task import report_end

    report_end(status, store, notify_url, summary.path)
