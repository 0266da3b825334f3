"""TensorFlow Serving's gRPC methods. Order of the checks, codes and messages are the original's."""

from typing import Any, Final, TypeAlias

import grpc
from recsys.tfserving.v1 import model_status_pb2 as status_pb
from recsys.tfserving.v1 import prediction_pb2 as pb

from service_runtime.deadlines import Deadline
from service_runtime.errors import InvalidRequestError
from service_runtime.tf_serving_api import MODEL_SERVICE, PREDICTION_SERVICE
from tf_serving.manager import ModelChoice
from tf_serving.service import ModelService
from tf_serving.tensors import arrays_of, response_tensor
from tf_serving.versions import VersionStatus

__all__ = ["ModelServicer"]

Context = grpc.aio.ServicerContext[Any, Any]
_Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[Any, Any]]"  # generic in the stubs only

_SIGNATURE_DEF: Final = "signature_def"
_SIGNATURE_DEF_MAP_URL: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class ModelServicer:
    """`PredictionService` and `ModelService`.

    Registered by name: stubs generated from our message definitions would carry another package.
    """

    def __init__(self, service: ModelService, default_deadline_seconds: float) -> None:
        self._service = service
        self._default_deadline_seconds = default_deadline_seconds

    def register(self, server: grpc.aio.Server) -> None:
        """Add both services to a server."""
        prediction: _Handlers = {
            "Predict": grpc.unary_unary_rpc_method_handler(
                self.predict, pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString
            ),
            "GetModelMetadata": grpc.unary_unary_rpc_method_handler(
                self.get_model_metadata,
                pb.GetModelMetadataRequest.FromString,
                pb.GetModelMetadataResponse.SerializeToString,
            ),
        }
        model: _Handlers = {
            "GetModelStatus": grpc.unary_unary_rpc_method_handler(
                self.get_model_status,
                status_pb.GetModelStatusRequest.FromString,
                status_pb.GetModelStatusResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler(PREDICTION_SERVICE, prediction),
            grpc.method_handlers_generic_handler(MODEL_SERVICE, model),
        ))  # fmt: skip

    async def predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        """Compute one batch; the answer echoes name, version and signature."""
        prediction = await self._service.predict(
            _choice_of(request),
            request.model_spec.signature_name,
            arrays_of(request.inputs),
            tuple(request.output_filter),
            Deadline.of(context, self._default_deadline_seconds),
        )
        response = pb.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = prediction.version
        response.model_spec.signature_name = prediction.signature_name
        for name, array in prediction.outputs.items():
            response.outputs[name].CopyFrom(response_tensor(array))
        return response

    async def get_model_metadata(
        self, request: pb.GetModelMetadataRequest, _: Context
    ) -> pb.GetModelMetadataResponse:
        """Answer the signatures of a version."""
        choice = _choice_of(request)
        if not request.metadata_field:
            raise InvalidRequestError(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise InvalidRequestError(f"Metadata field {field} is not supported")
        metadata = self._service.metadata(choice)
        response = pb.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = metadata.version
        response.metadata[_SIGNATURE_DEF].type_url = _SIGNATURE_DEF_MAP_URL
        response.metadata[_SIGNATURE_DEF].value = metadata.signature_def_map
        return response

    async def get_model_status(
        self, request: status_pb.GetModelStatusRequest, _: Context
    ) -> status_pb.GetModelStatusResponse:
        """Answer the states of one version or of all; a label counts as all, as in the original."""
        choice = _choice_of(request)
        statuses = self._service.statuses(choice.name, choice.version)
        return status_pb.GetModelStatusResponse(
            model_version_status=[_status_message(status) for status in statuses]
        )


def _choice_of(
    request: pb.PredictRequest | pb.GetModelMetadataRequest | status_pb.GetModelStatusRequest,
) -> ModelChoice:
    if not request.HasField("model_spec"):
        raise InvalidRequestError("Missing ModelSpec")
    spec = request.model_spec
    return ModelChoice(
        spec.name,
        spec.version.value if spec.HasField("version") else None,
        spec.version_label if spec.HasField("version_label") else None,
    )


def _status_message(status: VersionStatus) -> status_pb.ModelVersionStatus:
    return status_pb.ModelVersionStatus(
        version=status.version,
        state=status_pb.ModelVersionStatus.State.ValueType(status.state),
        status=status_pb.StatusProto(error_code=status.code, error_message=status.message),
    )
