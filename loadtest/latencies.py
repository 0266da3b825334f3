"""Durations in HDR histograms: three significant digits from a microsecond to a minute."""

from collections.abc import Iterable
from typing import Final, Self

from hdrh.histogram import HdrHistogram

__all__ = ["Latencies"]

_LOWEST_US: Final = 1
_HIGHEST_US: Final = 60_000_000
_DIGITS: Final = 3


class Latencies:
    """Many durations, kept as counts; percentiles are within a thousandth of the true ones."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)

    def record(self, seconds: float) -> None:
        """Count one; beyond a minute it counts as a minute."""
        microseconds = round(seconds * 1e6)
        self._histogram.record_value(min(max(microseconds, _LOWEST_US), _HIGHEST_US))

    @property
    def count(self) -> int:
        """How many were recorded."""
        return int(self._histogram.get_total_count())

    def percentile_ms(self, percentile: float) -> float:
        """Answer the milliseconds that `percentile` (0 to 100) percent do not exceed; 0 if none."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1000

    def mean_ms(self) -> float:
        """Answer the mean in milliseconds; 0 where nothing was recorded."""
        return float(self._histogram.get_mean_value()) / 1000 if self.count else 0.0

    def encode(self) -> str:
        """Answer HdrHistogram's own compressed form, base64."""
        encoded: bytes = self._histogram.encode()
        return encoded.decode("ascii")

    @classmethod
    def merged(cls, encoded: Iterable[str]) -> Self:
        """Add up histograms from several processes."""
        whole = cls()
        for one in encoded:
            whole._histogram.decode_and_add(one.encode("ascii"))
        return whole
