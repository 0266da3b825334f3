"""Every RPC of every contract is answered by code of ours."""

import pytest
from recsys.faiss.v1 import faiss_service_pb2, faiss_service_pb2_grpc
from recsys.recommender.v1 import recommender_service_pb2, recommender_service_pb2_grpc

from faiss_server.servicer import FaissServicer
from recommender.servicer import RecommenderServicer

CONTRACTS = [
    (faiss_service_pb2, faiss_service_pb2_grpc.FaissServiceServicer, FaissServicer),
    (
        recommender_service_pb2,
        recommender_service_pb2_grpc.RecommenderServiceServicer,
        RecommenderServicer,
    ),
]


@pytest.mark.parametrize(("module", "base", "ours"), CONTRACTS)
def test_no_rpc_is_left_unimplemented(module, base, ours):
    for service in module.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            assert getattr(ours, method.name) is not getattr(base, method.name)
