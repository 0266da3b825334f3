"""The second step: an event log of any size becomes each user's history of views."""

from pipeline.collect.collected import CollectedEvents
from pipeline.collect.step import collect

__all__ = ["CollectedEvents", "collect"]
