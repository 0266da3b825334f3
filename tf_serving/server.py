"""Puts the stand-in model server together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from service_runtime.metrics import new_registry
from service_runtime.process import settle_memory
from service_runtime.server import RunningServer, Services, running_server
from service_runtime.tf_serving_api import GET_MODEL_STATUS, MODEL_SERVICE, PREDICTION_SERVICE
from tf_serving.config import ModelConfig, TfServingSettings, read_model_config
from tf_serving.manager import ModelManager
from tf_serving.metrics import ModelMetrics
from tf_serving.servable import Model
from tf_serving.service import ModelService
from tf_serving.servicer import ModelServicer

__all__ = ["running_model_server", "serve"]


async def serve(settings: TfServingSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain.

    Raises StartupError for a bad model configuration or a port that is taken.
    """
    models = read_model_config(settings.model_config_file)
    async with running_model_server(settings, models, _loading(settings)) as running:
        await running.background.run_until(stop)


@asynccontextmanager
async def running_model_server(
    settings: TfServingSettings,
    models: tuple[ModelConfig, ...],
    load: Callable[[Path], Model],
) -> AsyncIterator[RunningServer]:
    """Serve for as long as the context is open; `load` reads one version, in a thread of its own.

    What follows the directories is one of its background tasks, for the caller to watch.

    Like TensorFlow Serving, the server does not describe its services by reflection.
    """
    registry = new_registry()
    async with AsyncExitStack() as stack:
        loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        stack.callback(loader.shutdown, wait=True, cancel_futures=True)
        executor = ThreadPoolExecutor(settings.threads, thread_name_prefix="predict")
        stack.callback(executor.shutdown, wait=True)

        async def report_health() -> None:
            await running.set_serving(serving=manager.ready)

        metrics = ModelMetrics(registry, tuple(model.name for model in models))
        manager = ModelManager(models, load, loader, metrics, report_health)
        service = ModelService(manager, executor, settings.threads)
        servicer = ModelServicer(service, settings.default_deadline_seconds)
        services = Services(
            register=servicer.register,
            names=(PREDICTION_SERVICE, MODEL_SERVICE),
            status_methods=frozenset({GET_MODEL_STATUS}),
            reflected=False,
        )
        running = await stack.enter_async_context(running_server(settings, services, registry))
        (following,) = running.background.start(manager.follow(settings.poll_seconds))
        stack.callback(following.cancel)  # whoever drains begins no load
        yield running


def _loading(settings: TfServingSettings) -> Callable[[Path], Model]:
    """Make the function that loads a version, with TensorFlow imported at its first call.

    So the server listens, and complains about its settings, seconds before that.
    """
    prepared = False

    def load(directory: Path) -> Model:
        from tf_serving import model  # noqa: PLC0415 - imports TensorFlow

        nonlocal prepared
        if not prepared:
            # A dropped model is freed by a full collection. Without TensorFlow's own objects, which
            # stay for good, that stops calls in flight for 2 ms instead of 170.
            settle_memory()
            prepared = True
        return model.load_model(
            directory,
            intra_op_threads=settings.intra_op_threads,
            inter_op_threads=settings.inter_op_threads,
        )

    return load
