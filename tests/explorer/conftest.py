import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from explorer.app import make_app
from explorer.channels import Channels, read_tls
from explorer.config import ExplorerSettings
from explorer.titles import read_titles
from tests.explorer.scripted import ScriptedFaiss, ScriptedModel, ScriptedRecommender, listening


@dataclass
class Parts:
    """One of each part, which a test may change before or while it asks."""

    recommender: ScriptedRecommender = field(default_factory=ScriptedRecommender)
    faiss: ScriptedFaiss = field(default_factory=ScriptedFaiss)
    model: ScriptedModel = field(default_factory=ScriptedModel)

    def settings(self, **changed) -> ExplorerSettings:
        usual = {
            "recommender": self.recommender.address,
            "faiss_servers": self.faiss.address,
            "model_servers": self.model.address,
        }
        return ExplorerSettings(**(usual | changed))


@asynccontextmanager
async def browsing(settings: ExplorerSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application with these settings."""
    channels = Channels(read_tls(settings))
    app = make_app(settings, channels, read_titles(settings.items))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
    await channels.close()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """Whoever runs the tests may have an explorer of their own."""
    for variable in [name for name in os.environ if name.startswith("EXPLORER_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    parts = Parts()
    async with listening(parts.recommender, parts.faiss, parts.model):
        yield parts


@pytest.fixture
async def client(parts) -> AsyncIterator[httpx.AsyncClient]:
    async with browsing(parts.settings()) as client:
        yield client
