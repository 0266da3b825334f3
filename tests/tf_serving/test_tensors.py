import numpy as np
import pytest

from service_runtime.tf_serving_api import TENSOR_TYPES, array_of
from tf_serving.tensors import SUPPORTED_TYPES, response_tensor


@pytest.mark.parametrize("number", TENSOR_TYPES)
def test_every_type_on_the_wire_can_be_an_answer_in_the_field_that_is_read(number):
    dtype, field = TENSOR_TYPES[number]
    array = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    tensor = response_tensor(array)
    assert tensor.dtype == number
    assert [name.name for name, _ in tensor.ListFields()] == ["dtype", "tensor_shape", field]
    np.testing.assert_array_equal(array_of(tensor), array)
    assert array_of(tensor).dtype == dtype


def test_there_is_one_table_of_types():
    assert {dtype for dtype, _ in TENSOR_TYPES.values()} == SUPPORTED_TYPES
