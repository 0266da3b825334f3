import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from recsys.tfserving.v1 import prediction_pb2

from service_runtime.tf_serving_api import array_of, tensor_of

dtypes = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "?"])


@given(npst.arrays(dtypes, npst.array_shapes(min_side=0, max_dims=3)))
def test_arrays_survive_the_wire(array):
    tensor = prediction_pb2.TensorProto.FromString(tensor_of(array).SerializeToString())
    unpacked = array_of(tensor)
    assert unpacked.dtype == array.dtype
    np.testing.assert_array_equal(unpacked, array)


def test_a_single_value_stands_for_all_elements():
    tensor = prediction_pb2.TensorProto(dtype=prediction_pb2.DT_FLOAT, float_val=[2.5])
    tensor.tensor_shape.dim.add(size=3)
    assert array_of(tensor).tolist() == [2.5, 2.5, 2.5]


def test_types_without_an_array_are_refused():
    with pytest.raises(ValueError, match="DT_STRING"):
        array_of(prediction_pb2.TensorProto(dtype=prediction_pb2.DT_STRING))
    with pytest.raises(ValueError, match="uint8"):
        tensor_of(np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="reshape"):
        array_of(
            prediction_pb2.TensorProto(
                dtype=prediction_pb2.DT_INT32,
                int_val=[1, 2],
                tensor_shape={"dim": [{"size": 3}]},
            )
        )
