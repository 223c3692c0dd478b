"""The process: uvicorn, its signals and its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from quantop_drain import drain_file
from starlette.types import ASGIApp

from quantop_serving.app import OnFailure, create_app
from quantop_serving.drain import Drain
from quantop_serving.engine import Engine
from quantop_serving.metrics import Metrics
from quantop_serving.reader import Reader
from quantop_serving.service import ModelService
from quantop_serving.settings import Settings
from quantop_serving.text_service import TextService

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 5
"""How long an idle connection is kept; less than what the preStop hook waits."""


class DrainingServer(uvicorn.Server):
    """SIGTERM lets it serve on until nobody is served any more; a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain.signalled:
            super().handle_exit(sig, frame)
            return
        log.info("signal %d: draining", sig)
        self._drain.signal()

    async def on_tick(self, counter: int) -> bool:
        if self._drain.done(answering=len(self.server_state.tasks)):
            self.should_exit = True
        return await super().on_tick(counter)


def serve(settings: Settings, load: Callable[[Settings], Engine]) -> int:
    """Serve until a signal ends it. Returns the exit code: 1 when the model could not be loaded.

    `load` is called in a thread, once the health routes answer.
    """
    metrics = Metrics(settings.model_name)
    service = ModelService(settings, partial(load, settings), metrics)
    return run(settings, partial(create_app, service, metrics))


def serve_texts(settings: Settings, load: Callable[[Settings], Reader]) -> int:
    """The same for a model that reads texts whole."""
    metrics = Metrics(settings.model_name)
    service = TextService(settings, partial(load, settings), metrics)
    return run(settings, partial(create_app, service, metrics))


def run(settings: Settings, make_app: Callable[[Drain, OnFailure], ASGIApp]) -> int:
    """Serve an application until a signal or its failure ends it. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    drain = Drain(drain_file(), linger=settings.drain_linger, timeout=settings.drain_timeout)
    failures: list[BaseException] = []

    def load_failed(error: BaseException) -> None:
        log.error("the model in %s cannot be served: %s", settings.model_dir, error)
        failures.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        make_app(drain, load_failed),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        # The drain has waited for the requests already; what is left now is to be cut.
        timeout_graceful_shutdown=1,
    )
    server = DrainingServer(config, drain)
    server.run()
    return 1 if failures or not server.started else 0
