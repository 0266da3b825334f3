"""What was measured, and whether it is what it must be."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from reporting.sections import Section

__all__ = ["Figure", "Report", "Value"]

Value = float | int | str | dict[str, Any]

_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_COMPARISON: Final = re.compile(r"(>=|<=|==|>|<)\s*(.+)")


@dataclass(frozen=True)
class Figure:
    """One measured value; `must` and `aim` are comparisons such as ">= 0.72" or "== POPULAR".

    Raises ValueError for a comparison that is malformed or has nothing to do with the value.
    """

    name: str
    value: Value
    unit: str = ""
    must: str | None = None
    aim: str | None = None
    holds: bool | None = field(init=False)
    """Whether `must` is met; None where there is none."""

    def __post_init__(self) -> None:
        holds = None if self.must is None else self._meets(self.must)
        object.__setattr__(self, "holds", holds)
        if self.aim is not None:
            self._meets(self.aim)

    @property
    def reaches_aim(self) -> bool | None:
        """Whether `aim` is met; None where there is none."""
        return None if self.aim is None else self._meets(self.aim)

    def _meets(self, comparison: str) -> bool:
        parsed = _COMPARISON.fullmatch(comparison.strip())
        if parsed is None:
            raise ValueError(f"{self.name}: {comparison!r} is no comparison; write it as '>= 0.72'")
        symbol, wanted = parsed[1], parsed[2].strip()
        if isinstance(self.value, str):
            if symbol != "==":
                raise ValueError(f"{self.name}: a text can only be compared with ==")
            return self.value == wanted
        if isinstance(self.value, dict):
            raise ValueError(  # noqa: TRY004 - the comparison is wrong, not the type
                f"{self.name}: a value of several parts cannot be compared"
            )
        try:
            number = float(wanted)
        except ValueError:
            raise ValueError(f"{self.name}: {wanted!r} in {comparison!r} is no number") from None
        return _COMPARISONS[symbol](self.value, number)


@dataclass(frozen=True)
class Report:
    """The figures of one target; `details` join them in report.json, `sections` in report.html."""

    target: str
    figures: tuple[Figure, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no must is missed; the caller exits non-zero otherwise."""
        return all(figure.holds is not False for figure in self.figures)
