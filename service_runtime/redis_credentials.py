"""Redis' user and password from a file, read again for every connection."""

from pathlib import Path

__all__ = ["CredentialsFile", "read_credentials"]


def read_credentials(file: Path) -> tuple[str, str]:
    """Answer user and password; raises OSError, ValueError for anything but one line of both."""
    user, colon, password = file.read_text().strip().partition(":")
    if not (user and colon and password) or "\n" in password:
        raise ValueError(f"{file}: must be one line, user:password")
    return user, password


class CredentialsFile:
    """A credential provider of Redis' client: the file may be replaced while this runs.

    Not derived from the client's own class, which takes longer to import than a server to start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def get_credentials(self) -> tuple[str, str]:
        """Answer user and password."""
        from redis.exceptions import AuthenticationError  # noqa: PLC0415 - whoever asks has it

        try:
            return read_credentials(self._file)
        except (OSError, ValueError) as error:
            raise AuthenticationError(f"REDIS_CREDENTIALS_FILE: {error}") from error

    async def get_credentials_async(self) -> tuple[str, str]:
        """Answer user and password; a line of a local file is read while others wait."""
        return self.get_credentials()
