"""What a signature takes and gives, and whether a request fits it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tf_serving.errors import InvalidInputError

__all__ = ["DEFAULT_SIGNATURE", "Array", "Signature", "TensorSpec"]

DEFAULT_SIGNATURE: Final = "serving_default"
"""Used where a request names none."""

Array = NDArray[np.generic]


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of one input; None in the shape is any size, a shape of None any rank."""

    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...] | None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be fed."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want is None or want == size for want, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """Named inputs and outputs of one function of a model."""

    inputs: Mapping[str, TensorSpec]
    outputs: frozenset[str]

    def check(self, inputs: Mapping[str, Array], output_filter: Sequence[str]) -> None:
        """Raise InvalidInputError, naming what is wrong, where the request does not fit."""
        self._check_names(inputs)
        for name, array in inputs.items():
            self._check_tensor(name, array)
        self._check_filter(output_filter)

    def _check_names(self, inputs: Mapping[str, Array]) -> None:
        extra, missing = inputs.keys() - self.inputs.keys(), self.inputs.keys() - inputs.keys()
        if extra or missing:
            raise InvalidInputError(
                f"input size does not match signature: {len(inputs)}!={len(self.inputs)} "
                f"len({_set(inputs)}) != len({_set(self.inputs)}). "
                f"Sent extra: {_set(extra)}. Missing but required: {_set(missing)}."
            )

    def _check_tensor(self, name: str, array: Array) -> None:
        spec = self.inputs[name]
        if array.dtype != spec.dtype:
            raise InvalidInputError(
                f"input {name}: expected {spec.dtype} but {array.dtype} is provided"
            )
        if not spec.fits(array.shape):
            wanted = tuple(-1 if size is None else size for size in spec.shape or ())
            raise InvalidInputError(
                f"input {name}: shape {array.shape} is not compatible with {wanted}"
            )

    def _check_filter(self, output_filter: Sequence[str]) -> None:
        for position, name in enumerate(output_filter):
            if name not in self.outputs:
                raise InvalidInputError(
                    f"output tensor alias not found in signature: {name} "
                    f"Outputs expected to be in the set {_set(self.outputs)}."
                )
            if name in output_filter[:position]:
                raise InvalidInputError(f"duplicate output tensor alias: {name}")


def _set(names: "Mapping[str, object] | frozenset[str] | set[str]") -> str:
    return "{" + ",".join(sorted(names)) + "}"
