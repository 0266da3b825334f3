from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from recsys.faiss.v1 import faiss_service_pb2_grpc
from recsys.recommender.v1 import recommender_service_pb2_grpc

from local_stack.demo import DemoOptions, learn_release
from local_stack.exact import ExactAnswers
from local_stack.stack import LocalStack
from local_stack.views import UserViews, last_views
from releases.layout import HISTORY_LENGTH, Part
from releases.manifest import Manifest
from tests.support.collector import Collector, collecting
from tests.support.events import write_events, write_items


@dataclass
class Learnt:
    """A release that the workflow published, and what it was learnt from."""

    events: Path
    items: Path
    store: Path
    manifest: Manifest
    views: list[UserViews]


@pytest.fixture(scope="session")
def learnt(tmp_path_factory) -> Learnt:
    directory = tmp_path_factory.mktemp("learnt")
    events = write_events(directory / "events.csv")
    items = write_items(directory / "items.csv")
    options = DemoOptions(directory, events, items, quick=True)
    store, workdir = directory / "store", directory / "pipeline"
    manifest = learn_release(options, store, workdir)
    return Learnt(events, items, store, manifest, last_views(workdir / "collect", HISTORY_LENGTH))


@dataclass
class Running:
    """The stack over the learnt release, and clients of its servers."""

    stack: LocalStack
    recommender: recommender_service_pb2_grpc.RecommenderServiceStub
    faiss: faiss_service_pb2_grpc.FaissServiceStub
    exact: ExactAnswers
    collector: Collector
    """Of the traces that callers begin; the stack begins none."""


_TRACING = ("RECOMMENDER_", "FAISS_SERVER_", "TF_SERVING_")


@pytest.fixture(scope="session")
def running(learnt, tmp_path_factory) -> Iterator[Running]:
    with (
        collecting() as collector,
        LocalStack(
            tmp_path_factory.mktemp("stack"),
            str(learnt.store),
            settings={
                **{f"{server}TRACES_ENDPOINT": collector.endpoint for server in _TRACING},
                "RECOMMENDER_TRACES_SAMPLE_RATIO": "0",
            },
        ) as stack,
    ):
        stack.wait_until_serving()
        exact = ExactAnswers(
            stack.addresses["model-server"].target,
            learnt.store / Part.EMBEDDINGS.value,
            learnt.manifest.release,
        )
        with (
            exact,
            grpc.insecure_channel(stack.addresses["recommender"].target) as recommender,
            grpc.insecure_channel(stack.addresses["faiss-server"].target) as faiss,
        ):
            yield Running(
                stack,
                recommender_service_pb2_grpc.RecommenderServiceStub(recommender),
                faiss_service_pb2_grpc.FaissServiceStub(faiss),
                exact,
                collector,
            )
