"""How long an answer usually takes at the most."""

__all__ = ["Patience"]


class Patience:
    """The usual time of an answer and four times its deviation, as TCP waits for an
    acknowledgement (RFC 6298): what takes longer is hardly going to come.
    """

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean = 0.0
        self._deviation = 0.0

    @property
    def seconds(self) -> float:
        """Answer how long it makes sense to wait; 0 before the first answer."""
        return self._mean + 4 * self._deviation

    def learn(self, seconds: float) -> None:
        """Count an answer that took so long."""
        self._deviation += (abs(seconds - self._mean) - self._deviation) / 4
        self._mean += (seconds - self._mean) / 8
