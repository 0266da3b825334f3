"""Redis' URL, and its user and password from a file: what all servers that ask Redis share.

Without its client, which takes longer to import than a server to start.
"""

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from service_runtime.errors import StartupError

__all__ = ["MALFORMED", "access_options", "check_access", "read_credentials"]

MALFORMED: Final = (
    "not redis://[user:password@]host[:port][/db], rediss://... or unix://...; "
    "signs such as / and @ in a password are written %2F and %40"
)
"""Says nothing of the URL itself, which may hold a password."""

_SCHEMES: Final = ("redis", "rediss", "unix")


def check_access(prefix: str, url: str, credentials_file: Path | None) -> None:
    """Refuse at start what could never connect; `prefix` is that of the server's settings.

    Raises StartupError with the variable's name.
    """
    try:
        _check_url(url, credentials_file)
    except ValueError as error:
        raise StartupError(f"{prefix}REDIS_URL: {error}") from None
    try:
        if credentials_file is not None:
            read_credentials(credentials_file)
    except (OSError, ValueError) as error:
        raise StartupError(f"{prefix}REDIS_CREDENTIALS_FILE: {error}") from error


def access_options(url: str, credentials_file: Path | None) -> dict[str, Any]:
    """Answer what Redis' client is made with beside the URL. Raises ValueError for a bad one."""
    _check_url(url, credentials_file)
    # Told by CLIENT SETINFO, which servers before 7.2 do not know, and no user has a right to.
    options: dict[str, Any] = {"driver_info": None}
    if credentials_file is not None:
        options["credential_provider"] = _CredentialsFile(credentials_file)
    return options


def read_credentials(file: Path) -> tuple[str, str]:
    """Answer user and password; raises OSError, ValueError for anything but one line of both."""
    user, colon, password = file.read_text().strip().partition(":")
    if not (user and colon and password) or "\n" in password:
        raise ValueError(f"{file}: must be one line, user:password")
    return user, password


def _check_url(url: str, credentials_file: Path | None) -> None:
    try:
        parts = urlsplit(url)
        whole = bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port
    except ValueError:
        raise ValueError(MALFORMED) from None
    if parts.scheme not in _SCHEMES or not whole:
        raise ValueError(MALFORMED)
    if credentials_file is not None and "@" in parts.netloc:
        raise ValueError("it names a user beside REDIS_CREDENTIALS_FILE; leave one of them out")


class _CredentialsFile:
    """A credential provider of Redis' client: the file may be replaced while this runs."""

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
