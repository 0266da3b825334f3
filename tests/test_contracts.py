"""Every RPC of every contract is answered by code of ours."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from recsys.faiss.v1 import faiss_service_pb2, faiss_service_pb2_grpc
from recsys.recommender.v1 import recommender_service_pb2, recommender_service_pb2_grpc
from tensorflow_serving.apis import (  # noqa: TID251 - the yardstick
    model_service_pb2,
    prediction_service_pb2,
)

from faiss_server.servicer import FaissServicer
from recommender.servicer import RecommenderServicer
from tests.tf_serving.serving import MODEL, FakeLoads, Versions, model_server

CONTRACTS = [
    (faiss_service_pb2, faiss_service_pb2_grpc.FaissServiceServicer, FaissServicer),
    (
        recommender_service_pb2,
        recommender_service_pb2_grpc.RecommenderServiceServicer,
        RecommenderServicer,
    ),
]
OFFICIAL = [
    method
    for module in (prediction_service_pb2, model_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
OF_THE_MODEL_SERVER = {
    "tensorflow.serving.PredictionService.Predict",
    "tensorflow.serving.PredictionService.GetModelMetadata",
    "tensorflow.serving.ModelService.GetModelStatus",
}


@pytest.mark.parametrize(("module", "base", "ours"), CONTRACTS)
def test_no_rpc_is_left_unimplemented(module, base, ours):
    for service in module.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            assert getattr(ours, method.name) is not getattr(base, method.name)


async def test_the_model_server_answers_the_official_rpcs_that_it_is_there_for(tmp_path: Path):
    answered = set()
    async with model_server(Versions(tmp_path / MODEL).base_path, FakeLoads()) as client:
        for method in OFFICIAL:
            path = f"/{method.containing_service.full_name}/{method.name}"
            request = GetMessageClass(method.input_type)().SerializeToString()
            call: Any = client.channel.unary_unary(path)
            code = await call(request, timeout=10).code()
            if code is not grpc.StatusCode.UNIMPLEMENTED:
                # Said by the handler: the request names no model.
                assert code is grpc.StatusCode.INVALID_ARGUMENT
                answered.add(method.full_name)
    assert answered == OF_THE_MODEL_SERVER
