"""The two addresses of the page: `/` and `/health`, which `/` fetches anew all the time."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from explorer.advice import http_status
from explorer.asking import Result, ask
from explorer.channels import Channels, addresses_of
from explorer.config import ExplorerSettings, parse_targets
from explorer.errors import CallFailedError, FieldError
from explorer.headers import SecurityHeaders
from explorer.health import Health, HealthWatch
from explorer.pages import environment
from explorer.question import DEFAULT_LIMIT, Question, parse_question
from explorer.recommender import Recommender
from explorer.titles import Titles
from explorer.waterfall import BUDGET_MS

__all__ = ["make_app"]

_STATIC: Final = Path(__file__).parent / "static"
_EMPTY_FORM: Final = {
    **dict.fromkeys(("user", "region", "recent", "release", "compare", "exclude_viewed"), ""),
    "limit": str(DEFAULT_LIMIT),
}
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


def make_app(settings: ExplorerSettings, channels: Channels, titles: Titles) -> Starlette:
    """Make the application; whoever calls closes the channels after it."""
    page = _Page(settings, channels, HealthWatch(settings, channels), environment(titles))
    middleware = [Middleware(SecurityHeaders)]
    if _is_loopback(settings.host):
        # Else any web site could read the page through a name of its own for that address.
        names = [*_LOCAL_NAMES, settings.host, f"[{settings.host}]"]
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=names))
    routes = [
        Route("/", page.main),
        Route("/health", page.health),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    return Starlette(routes=routes, middleware=middleware)


def _is_loopback(host: str) -> bool:
    """Tell whether all that the host stands for is this machine alone, however it is written."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False  # nothing can listen there; but the empty host stands for all addresses
    addresses = [ip_address(address[0]) for *_, address in found]
    return all((getattr(each, "ipv4_mapped", None) or each).is_loopback for each in addresses)


@dataclass(frozen=True)
class _Page:
    settings: ExplorerSettings
    channels: Channels
    watch: HealthWatch
    templates: Environment

    async def main(self, request: Request) -> Response:
        """Show the form, and the answer to what it asks, if anything."""
        fields = request.query_params
        # Before the question: connections are then there, and not part of its time.
        health = await self.watch.look()
        if not fields:
            return self._shown(fields, health)
        try:
            result = await self._ask(parse_question(fields))
        except FieldError as error:
            return self._shown(fields, health, problem=str(error), status=400)
        except CallFailedError as error:
            return self._shown(fields, health, failure=error, status=http_status(error))
        status = max(map(http_status, result.failures), default=200)
        return self._shown(fields, health, result=result, status=status)

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - a route's signature
        """Show how all parts are, for the page to put in its place."""
        health = await self.watch.look()
        return HTMLResponse(self.templates.get_template("health.html").render(health=health))

    async def _ask(self, question: Question) -> Result:
        (target,) = parse_targets(self.settings.recommender)
        seconds = self.settings.deadline_seconds
        try:
            address, *_ = await addresses_of(target, seconds)
        except OSError as error:
            raise CallFailedError("recommender", str(target), "UNAVAILABLE", str(error)) from error
        channel = self.channels.to(address, target.host)
        return await ask(Recommender(channel, address, seconds), question)

    def _shown(
        self,
        fields: Mapping[str, str],
        health: Health,
        *,
        status: int = 200,
        **found: Any,
    ) -> Response:
        known = {
            "fields": {**_EMPTY_FORM, **fields},
            "health": health,
            "users": self.settings.example_users,
            "budget_ms": BUDGET_MS,
            "result": None,
            "problem": None,
            "failure": None,
        }
        html = self.templates.get_template("page.html").render(known | found)
        return HTMLResponse(html, status_code=status)
