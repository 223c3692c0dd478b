"""The operator's process: watches, leader election, workers, health and metrics."""

import asyncio
import contextlib
import logging
import sys

import kopf
from aiohttp import web
from prometheus_client import start_http_server

from quantop import handlers, logs, metrics
from quantop.kube import Kube
from quantop.leader import LeaderElection, LeadershipLostError
from quantop.reconcile.cache import Cache, Entry, Key
from quantop.reconcile.queue import WorkQueue
from quantop.reconcile.reconciler import Reconciler
from quantop.settings import Settings

logger = logging.getLogger("quantop")


def main() -> None:
    """Run until told to end. Exit code 0 when told, 1 when leadership was lost, 2 when the
    settings are wrong."""
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        sys.exit(f"quantop: {error}")
    logs.configure(settings.log_level)
    try:
        asyncio.run(run(settings))
    except LeadershipLostError as lost:
        logger.error("leadership lost, ending", extra={"why": str(lost)})
        sys.exit(1)


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Run the operator until ``stop`` is set or a signal comes. Raises LeadershipLostError."""
    kube = await Kube.connect()
    cache, queue, unreadable = Cache(settings), WorkQueue[Key](), WorkQueue[Entry]()
    metrics.QUEUE_DEPTH.set_function(lambda: queue.depth)
    registry = kopf.OperatorRegistry()
    handlers.register(registry, cache, queue, unreadable)
    ready = asyncio.Event()
    election = LeaderElection(kube, settings)
    start_http_server(settings.metrics_port)
    health = await serve_health(settings.health_port, ready)
    watches = asyncio.create_task(
        kopf.operator(
            registry=registry,
            settings=handlers.operator_settings(),
            standalone=True,
            clusterwide=True,
            ready_flag=ready,
            stop_flag=stop,
        )
    )
    reconciler = Reconciler(kube, cache)
    work = asyncio.create_task(lead(election, reconciler, queue, unreadable, settings.workers))
    try:
        # kopf ends on a signal; leading ends only by failing.
        done, _ = await asyncio.wait({watches, work}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (watches, work):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, LeadershipLostError):
                await task
        await election.release()
        await health.cleanup()
        await kube.close()


async def lead(
    election: LeaderElection,
    reconciler: Reconciler,
    queue: WorkQueue[Key],
    unreadable: WorkQueue[Entry],
    workers: int,
) -> None:
    """Work while the Lease is held. The caches are filled meanwhile, so that a takeover begins
    with what is known already. Raises LeadershipLostError."""
    await election.acquire()
    workers_ = [asyncio.create_task(queue.work(reconciler.reconcile)) for _ in range(workers)]
    workers_.append(asyncio.create_task(unreadable.work(reconciler.warn)))
    try:
        await election.hold()
    finally:
        for worker in workers_:
            worker.cancel()
        await asyncio.gather(*workers_, return_exceptions=True)


async def serve_health(port: int, ready: asyncio.Event) -> web.AppRunner:
    """Serve ``/healthz`` (the event loop turns) and ``/readyz`` (kopf has started)."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if ready.is_set() else web.Response(status=503)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


if __name__ == "__main__":
    main()
