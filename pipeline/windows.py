"""Histories as rows: the last views before a position, newest first, gathered by the batch."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["HISTORY_LENGTH", "history_windows"]

HISTORY_LENGTH: Final = 50
"""Views of a user that the model sees; the width of the signature's `history`."""


def history_windows(
    views: NDArray[Any],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    padding: int,
) -> NDArray[Any]:
    """Gather, for each row, the last views of `views[begin:end]`, newest first.

    Returns [rows, 50] of the dtype of `views`; shorter histories are padded on the right.
    """
    places = ends[:, None] - 1 - np.arange(HISTORY_LENGTH)
    present = places >= begins[:, None]
    if not len(views):
        return np.full(places.shape, padding, views.dtype)
    return np.where(present, views[np.where(present, places, 0)], views.dtype.type(padding))
