"""A run's options as Kubeflow Pipelines knows them: flat, typed, and none of them missing."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from pipeline.errors import PipelineError
from pipeline.options import (
    BigQueryOptions,
    CollectOptions,
    GateOptions,
    PreprocessOptions,
    RunOptions,
    TrainOptions,
)

__all__ = ["parameters_of", "run_options"]

_GROUPS: Final[Mapping[str, type[Any]]] = {
    "collect": CollectOptions,
    "preprocess": PreprocessOptions,
    "train": TrainOptions,
    "gate": GateOptions,
}
_OF_THE_RUN: Final = frozenset(field.name for field in dataclasses.fields(RunOptions))
_GROUP_OF: Final = {
    field.name: group for group, kind in _GROUPS.items() for field in dataclasses.fields(kind)
}


def run_options(**parameters: Any) -> RunOptions:
    """Rebuild the options; what is not given has its default, "" and 0 stand for nothing.

    A task of Kubeflow's is given only what its step reads, so that its page shows what shaped it.
    Raises pydantic's ValidationError and PipelineError.
    """
    root: dict[str, Any] = {"store": "", "events": None, "items": None}
    groups: dict[str, dict[str, Any]] = {name: {} for name in _GROUPS}
    for name, value in parameters.items():
        if name == "recall_target":
            groups["gate"]["min_recall"] = value
            root[name] = value
        elif name == "beam":
            groups["preprocess"]["beam_arguments"] = tuple(value)
        elif name == "hidden_units":
            groups["train"][name] = tuple(value)
        elif name == "keep_seen":
            root["remove_seen"] = not value
        elif name in _GROUP_OF:
            groups[_GROUP_OF[name]][name] = _given(name, value)
        elif name in _OF_THE_RUN:
            root[name] = _given(name, value)
        else:
            raise PipelineError(f"there is no parameter {name}")
    options = {
        name: TypeAdapter(kind).validate_python(groups[name]) for name, kind in _GROUPS.items()
    }
    return TypeAdapter(RunOptions).validate_python(root | options)


def parameters_of(options: RunOptions) -> dict[str, Any]:
    """Flatten options into the parameters of the pipeline.

    Raises PipelineError where they say something that these can't.
    """
    collect, preprocess, train, gate = (
        options.collect,
        options.preprocess,
        options.train,
        options.gate,
    )
    bigquery = collect.bigquery
    parameters: dict[str, Any] = {
        "store": options.store,
        "events": _path(options.events),
        "items": options.items or "",
        "views": _path(collect.views),
        "bigquery": {} if bigquery is None else TypeAdapter(BigQueryOptions).dump_python(bigquery),
        "release": options.release or 0,
        "window_days": options.window_days or 0.0,
        "look_back_days": collect.look_back_days,
        "max_user_views": collect.max_user_views,
        "popular_half_life_days": collect.popular_half_life_days or 0.0,
        "event_name": collect.event_name,
        "min_article_views": preprocess.min_article_views,
        "min_user_views": preprocess.min_user_views,
        "split": preprocess.split,
        "split_since": preprocess.split_since or 0,
        "max_test_users": preprocess.max_test_users,
        "beam": list(preprocess.beam_arguments),
        "dimension": train.dimension,
        "hidden_units": list(train.hidden_units),
        "learning_rate": train.learning_rate,
        "batch_size": train.batch_size or 0,
        "max_train_seconds": train.max_train_seconds,
        "max_epochs": train.max_epochs or 0,
        "model": train.model or "",
        "seed": train.seed,
        "popularity_debias": options.popularity_debias,
        "keep_seen": not options.remove_seen,
        "recall_target": options.recall_target,
        "index_spec": options.index_spec,
        "index_memory_gib": options.index_memory_gib or 0.0,
        "max_drop": gate.max_drop,
        "max_fall": gate.max_fall,
        "max_shrink": gate.max_shrink,
        "max_age_hours": gate.max_age_hours or 0.0,
        "publish_anyway": gate.publish_anyway,
    }
    if (understood := run_options(**parameters)) != options:
        names = ", ".join(_differences(options, understood))
        raise PipelineError(f"the pipeline on Kubeflow has no parameter for {names}")
    return parameters


_EMPTY_IS_NONE: Final = frozenset(
    {
        "events",
        "items",
        "views",
        "bigquery",
        "release",
        "window_days",
        "popular_half_life_days",
        "split_since",
        "model",
        "batch_size",
        "max_epochs",
        "index_memory_gib",
        "max_age_hours",
    }
)


def _given(name: str, value: object) -> object:
    """Kubeflow's parameters have a type and no None."""
    return None if name in _EMPTY_IS_NONE and not value else value


def _path(path: Path | None) -> str:
    return "" if path is None else str(path)


def _differences(left: RunOptions, right: RunOptions) -> Sequence[str]:
    found = []
    for field in dataclasses.fields(left):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if ours == theirs:
            continue
        if dataclasses.is_dataclass(ours):
            names = [each.name for each in dataclasses.fields(ours)]
            found += [
                f"{field.name}.{name}"
                for name in names
                if getattr(ours, name) != getattr(theirs, name)
            ]
        else:
            found.append(field.name)
    return found
