"""A trouble that lasts is worth one line when it begins, and one when it is over."""

import logging

__all__ = ["Trouble"]

logger = logging.getLogger(__name__)


class Trouble:
    """What is wrong with one part, if anything."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._told = ""

    def tell(self, why: str) -> None:
        """Log it as a warning, unless it is what was told last."""
        if why != self._told:
            self._told = why
            logger.warning("%s: %s", self._part, why)

    def over(self) -> None:
        """Log that the part is well again, where it was not."""
        if self._told:
            logger.info("%s: well again after: %s", self._part, self._told)
            self._told = ""
