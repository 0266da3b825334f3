"""What to do about a call that failed, and what a fallback means."""

from collections.abc import Sequence
from typing import Final

from explorer.errors import CallFailedError

__all__ = ["advice", "http_status", "reason_in_words"]

_ADVICE: Final = {
    "UNAVAILABLE": "Nothing answers there, or a part that it cannot do without is away: see the "
    "health of all parts. Is `make up` running? EXPLORER_RECOMMENDER says where to ask.",
    "DEADLINE_EXCEEDED": "It did not answer in time (EXPLORER_DEADLINE_SECONDS).",
    "RESOURCE_EXHAUSTED": "It has too many calls in flight. Try again in a moment.",
    "INVALID_ARGUMENT": "Change the field that the message names.",
    "UNIMPLEMENTED": "What listens there is no recommender: see EXPLORER_RECOMMENDER.",
}
_OTHERWISE: Final = "The details are in the log of that part."
# By gRPC code; everything else is a bad gateway.
_HTTP: Final = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 409, "DEADLINE_EXCEEDED": 504}
_REASONS: Final = {
    "NO_HISTORY": "the user has no history",
    "UNKNOWN_HISTORY": "the model knows none of the articles in the history",
    "HISTORY_UNAVAILABLE": "the history could not be read in time",
    "MODEL_UNAVAILABLE": "the model server gave no usable answer in time",
    "SEARCH_UNAVAILABLE": "the faiss server gave no usable answer in time",
    "NO_COMMON_RELEASE": "no release is ready on both the model server and the faiss server",
}


def advice(failure: CallFailedError, in_service: Sequence[int]) -> str:
    """Say what to do; `in_service` are the releases that may be asked for."""
    if failure.code == "FAILED_PRECONDITION":
        if not in_service:
            return "No faiss server has a release in service."
        return f"In service: {', '.join(map(str, in_service))}. Choose one of these, or pinned."
    return _ADVICE.get(failure.code, _OTHERWISE)


def http_status(failure: CallFailedError) -> int:
    """Answer the HTTP status of a page whose question failed so."""
    return _HTTP.get(failure.code, 502)


def reason_in_words(fallback_reason: str) -> str:
    """Say why an answer is not personalised."""
    return _REASONS.get(fallback_reason, fallback_reason)
