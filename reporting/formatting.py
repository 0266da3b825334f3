"""Values as people read them."""

from typing import Any

__all__ = ["format_value"]


def format_value(value: Any) -> str:
    """Write whole numbers in full, others to four digits, and parts as `name value`."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {format_value(part)}" for name, part in value.items())
    return str(value)
