"""The workflow as a pipeline of Kubeflow's: who waits for whom, and what each task is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from kfp import compiler, dsl, kubernetes
from kfp.dsl import PipelineTask

from pipeline.kubeflow.components import (
    collect,
    copy,
    evaluate,
    export,
    gate,
    index,
    preprocess,
    publish,
    report,
    train,
    window,
)
from pipeline.options import (
    CollectOptions,
    GateOptions,
    PreprocessOptions,
    RunOptions,
    TrainOptions,
)
from pipeline.steps import STEPS

__all__ = ["PIPELINE_NAME", "STEPS_AND_REPORT", "compile_pipeline", "workflow"]

PIPELINE_NAME: Final = "recsys-workflow"

STEPS_AND_REPORT: Final = (*STEPS, "report")
"""The tasks; each may have an image of its own."""


@dataclass(frozen=True)
class _Needs:
    """What a task is given: cores, memory, and second chances."""

    cpu: str
    memory: str
    retries: int = 0


_NEEDS: Final[Mapping[str, _Needs]] = {
    "window": _Needs("500m", "1G", retries=2),
    "collect": _Needs("2", "8G", retries=2),
    "preprocess": _Needs("4", "8G", retries=2),
    "train": _Needs("4", "8G", retries=1),
    "export": _Needs("2", "4G", retries=2),
    "evaluate": _Needs("2", "8G", retries=2),
    "index": _Needs("4", "8G", retries=2),
    "copy": _Needs("1", "2G", retries=5),
    "gate": _Needs("1", "4G", retries=2),
    # Refused by the gate it is tried once more in vain; evicted, it must be.
    "publish": _Needs("1", "4G", retries=1),
    "report": _Needs("500m", "1G", retries=2),
}


def workflow(
    images: Mapping[str, str],
    volumes: Mapping[str, str] = MappingProxyType({}),
    *,
    with_retries: bool = True,
) -> Any:
    """Wire the steps into a pipeline, each with the image that `images` has for it.

    `volumes`: where each persistent volume claim is mounted in all tasks.
    """

    def run(task: PipelineTask, step: str) -> Any:
        needs = _NEEDS[step]
        task.set_display_name(step)
        task.set_container_image(images[step])
        task.set_cpu_request(needs.cpu).set_memory_request(needs.memory)
        task.set_cpu_limit(needs.cpu).set_memory_limit(needs.memory)
        # Each run has another window: nothing after it is ever the same.
        task.set_caching_options(enable_caching=False)
        for claim, path in volumes.items():
            kubernetes.mount_pvc(task, claim, path)
        if with_retries and needs.retries:
            task.set_retry(needs.retries, backoff_duration="30s", backoff_factor=2.0)
        return task.outputs

    @dsl.pipeline(  # type: ignore[untyped-decorator] # kfp has no types
        name=PIPELINE_NAME, description="Views to a published release, twice a day"
    )
    def wired(
        store: str,
        events: str = "",
        items: str = "",
        views: str = "",
        bigquery: dict[str, Any] = {},  # noqa: B006 - Kubeflow reads it once
        release: int = 0,
        window_days: float = 0.0,
        look_back_days: int = CollectOptions.look_back_days,
        max_user_views: int = CollectOptions.max_user_views,
        popular_half_life_days: float = 0.0,
        event_name: str = CollectOptions.event_name,
        min_article_views: int = PreprocessOptions.min_article_views,
        min_user_views: int = PreprocessOptions.min_user_views,
        split: str = PreprocessOptions.split,
        split_since: int = 0,
        max_test_users: int = PreprocessOptions.max_test_users,
        beam: list[str] = [],  # noqa: B006 - Kubeflow reads it once
        dimension: int = TrainOptions.dimension,
        hidden_units: list[int] = list(TrainOptions.hidden_units),  # noqa: B006
        learning_rate: float = TrainOptions.learning_rate,
        batch_size: int = 0,
        max_train_seconds: float = TrainOptions.max_train_seconds,
        max_epochs: int = 0,
        model: str = "",
        seed: int = TrainOptions.seed,
        popularity_debias: float = RunOptions.popularity_debias,
        keep_seen: bool = not RunOptions.remove_seen,
        recall_target: float = RunOptions.recall_target,
        index_spec: str = RunOptions.index_spec,
        index_memory_gib: float = 0.0,
        max_drop: float = GateOptions.max_drop,
        max_fall: float = GateOptions.max_fall,
        max_shrink: float = GateOptions.max_shrink,
        max_age_hours: float = 0.0,
        publish_anyway: bool = GateOptions.publish_anyway,
        notify_url: str = "",
    ) -> None:
        ending = report(store=store, notify_url=notify_url)
        run(ending, "report")
        with dsl.ExitHandler(ending, name="steps"):
            chosen = run(window(store=store, release=release, window_days=window_days), "window")[
                "window"
            ]
            collected = run(
                collect(
                    window=chosen,
                    events=events,
                    items=items,
                    views=views,
                    bigquery=bigquery,
                    look_back_days=look_back_days,
                    max_user_views=max_user_views,
                    popular_half_life_days=popular_half_life_days,
                    event_name=event_name,
                ),
                "collect",
            )["collected"]
            prepared = run(
                preprocess(
                    collected=collected,
                    min_article_views=min_article_views,
                    min_user_views=min_user_views,
                    split=split,
                    split_since=split_since,
                    max_test_users=max_test_users,
                    beam=beam,
                ),
                "preprocess",
            )["prepared"]
            trained = run(
                train(
                    prepared=prepared,
                    dimension=dimension,
                    hidden_units=hidden_units,
                    learning_rate=learning_rate,
                    batch_size=batch_size,
                    max_train_seconds=max_train_seconds,
                    max_epochs=max_epochs,
                    model=model,
                    seed=seed,
                ),
                "train",
            )["trained"]
            exported = run(
                export(
                    window=chosen,
                    prepared=prepared,
                    trained=trained,
                    popularity_debias=popularity_debias,
                ),
                "export",
            )["exported"]
            evaluation = run(
                evaluate(prepared=prepared, exported=exported, store=store, keep_seen=keep_seen),
                "evaluate",
            )["evaluation"]
            indexed = run(
                index(
                    collected=collected,
                    prepared=prepared,
                    exported=exported,
                    recall_target=recall_target,
                    index_spec=index_spec,
                    index_memory_gib=index_memory_gib,
                ),
                "index",
            )["indexed"]
            copied = run(copy(exported=exported, store=store), "copy")["copied"]
            decision = run(
                gate(
                    prepared=prepared,
                    exported=exported,
                    evaluation=evaluation,
                    indexed=indexed,
                    copied=copied,
                    store=store,
                    recall_target=recall_target,
                    max_drop=max_drop,
                    max_fall=max_fall,
                    max_shrink=max_shrink,
                    max_age_hours=max_age_hours,
                    publish_anyway=publish_anyway,
                ),
                "gate",
            )["decision"]
            publishing = publish(
                prepared=prepared,
                exported=exported,
                evaluation=evaluation,
                indexed=indexed,
                decision=decision,
                store=store,
            )
            run(publishing, "publish")

    return wired


def compile_pipeline(
    images: Mapping[str, str], path: str, volumes: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Write the IR YAML that Kubeflow takes; answer its parameters, with their types.

    `images`: for each of STEPS_AND_REPORT. The types are kfp's: String, Integer, Float, Boolean,
    List[String] and Dict[String, Any].
    """
    compiled = workflow(images, volumes)
    compiler.Compiler().compile(compiled, path)
    return {name: str(each.type) for name, each in compiled.component_spec.inputs.items()}
