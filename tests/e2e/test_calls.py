"""A call that fails ends the demo with one line."""

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from local_stack.calls import naming_call, views_of
from local_stack.demo import _ask_everyone
from local_stack.errors import StackError
from local_stack.exact import ExactAnswers
from local_stack.redis import free_port
from local_stack.views import UserViews
from releases.layout import Part

USER = UserViews("u", [7, 8, 9], [10, 10, 11])


def test_views_of_one_second_are_recorded_in_their_order():
    request = views_of(USER)
    assert request.user_id == "u"
    assert [(v.article_id, v.viewed_at_ms) for v in request.views] == [
        (7, 10_000),
        (8, 10_001),
        (9, 11_002),
    ]


def test_a_server_that_is_away_is_named_by_call_and_code():
    with grpc.insecure_channel(f"127.0.0.1:{free_port()}") as channel:
        stub = pb2_grpc.RecommenderServiceStub(channel)
        with pytest.raises(StackError, match=r"^RecordViews: UNAVAILABLE: ") as told:
            _ask_everyone(stub, None, [USER])
        assert "\n" not in str(told.value)


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), naming_call("GetCandidates"):
        _ = 1 / 0


@pytest.mark.timeout(300)
def test_refusals_of_the_servers_are_told(learnt, running):
    too_long = UserViews("u" * 257, [1000], [1])
    with pytest.raises(StackError, match=r"^RecordViews: INVALID_ARGUMENT: user_id: longer than"):
        _ask_everyone(running.recommender, running.exact, [too_long])
    stranger = UserViews("nobody", [], [])
    with pytest.raises(StackError, match=r"^RecordViews: INVALID_ARGUMENT: views: 0 given"):
        _ask_everyone(running.recommender, running.exact, [stranger])
    embeddings = learnt.store / Part.EMBEDDINGS.value
    away = f"127.0.0.1:{free_port()}"
    with (
        ExactAnswers(away, embeddings, learnt.manifest.release) as exact,
        pytest.raises(StackError, match=r"^Predict: UNAVAILABLE: "),
    ):
        exact.candidates([1000], 10)
