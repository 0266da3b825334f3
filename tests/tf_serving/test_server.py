import asyncio

import pytest

from tests.tf_serving.serving import MODEL, Versions, server_settings
from tf_serving.manager import ModelManager
from tf_serving.server import serve


async def test_a_fault_in_what_follows_the_directories_ends_the_server(tmp_path, monkeypatch):
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(ModelManager, "follow", fail)
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "{MODEL}" model_platform: "tensorflow" '
        f'base_path: "{Versions(tmp_path / MODEL).base_path}" }} }}'
    )
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(
            serve(server_settings(model_config_file=config), asyncio.Event()), 10
        )
