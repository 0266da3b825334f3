"""The users that the deployment's Redis knows, deploy/redis/users.acl."""

from hashlib import sha256
from pathlib import Path

__all__ = ["rules_of", "users_with"]

FILE = Path("deploy") / "redis" / "users.acl"


def users_with(**passwords: str) -> str:
    """Fill passwords in, by user with an underscore; whoever has none cannot log in."""
    text = FILE.read_text()
    for user in ("recommender", "faiss_server"):
        digest = sha256(passwords.get(user, "").encode()).hexdigest()
        text = text.replace(f"{user.upper()}_PASSWORD_SHA256", digest)
    return text


def rules_of(user: str) -> list[str]:
    """Answer the rules of one user, without password."""
    (line,) = (line for line in FILE.read_text().splitlines() if line.split()[1] == user)
    return [rule for rule in line.split()[2:] if not rule.startswith("#")]
