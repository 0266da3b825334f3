"""The metrics that every server has, and the port that Prometheus reads them from."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from threading import Event, Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)

from service_runtime.errors import StartupError

__all__ = ["LATENCY_BUCKETS", "CallMetrics", "metrics_endpoint", "new_registry"]

LATENCY_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
)  # fmt: skip
"""Seconds; dense around the budget of 10 ms."""

_WAKING_SECONDS = 1.0


def new_registry() -> CollectorRegistry:
    """Make a registry with the process's own figures; one per server, so that tests run many."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class CallMetrics:
    """Durations by method and code, calls in flight, and calls refused.

    `shared`: this process is one of several whose figures are read elsewhere; then what is not
    counted but looked up comes there by `publish`.
    """

    def __init__(self, registry: CollectorRegistry, *, shared: bool = False) -> None:
        self._shared = shared
        self._looked_up: list[tuple[Gauge, Callable[[], float]]] = []
        self._durations = Histogram(
            "recsys_rpc_duration_seconds",
            "Time from a call's arrival to its answer.",
            ["service", "method", "code"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "recsys_rpc_in_flight",
            "Calls being answered.",
            ["service", "method"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._shed = Counter(
            "recsys_rpc_shed_total",
            "Calls refused before any work: too many in flight, or too little time left.",
            ["service", "method"],
            registry=registry,
        )
        self._limit = Gauge(
            "recsys_rpc_limit",
            "Calls that may be in flight now, fewer under overload; 0: any number.",
            ["service", "method"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._late = Counter(
            "recsys_rpc_deadline_exceeded_total",
            "Calls that ended for want of time.",
            ["service", "method"],
            registry=registry,
        )

    def of(self, service: str, method: str) -> "MethodMetrics":
        """Answer the metrics of one method, at zero from now on."""
        return MethodMetrics(
            durations=self._durations,
            names=(service, method),
            shed=self._shed.labels(service, method),
            late=self._late.labels(service, method),
        )

    def look_up(
        self,
        service: str,
        method: str,
        in_flight: Callable[[], float],
        limit: Callable[[], float],
    ) -> None:
        """Take a method's calls in flight, and their limit, from these functions when the figures
        are read, so that no call spends time on them.
        """
        self._follow(self._in_flight.labels(service, method), in_flight)
        self._follow(self._limit.labels(service, method), limit)

    def busy_seconds(self, but: frozenset[str]) -> float:
        """Answer the seconds that calls took so far, but those of methods `/service/method`."""
        return sum(
            sample.value
            for metric in self._durations.collect()
            for sample in metric.samples
            if sample.name.endswith("_sum")
            and f"/{sample.labels['service']}/{sample.labels['method']}" not in but
        )

    def calls_shed(self) -> float:
        """Answer how many calls were refused so far."""
        return sum(
            sample.value
            for metric in self._shed.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )

    def _follow(self, gauge: Gauge, value: Callable[[], float]) -> None:
        if self._shared:
            self._looked_up.append((gauge, value))
        else:
            gauge.set_function(value)

    def publish(self) -> None:
        """Write what is looked up to where the figures of all processes are."""
        for gauge, value in self._looked_up:
            gauge.set(value())


class MethodMetrics:
    """One method's metrics; label look-ups are done once, they cost more than the counting."""

    def __init__(
        self,
        durations: Histogram,
        names: tuple[str, str],
        shed: Counter,
        late: Counter,
    ) -> None:
        self.shed = shed
        self.late = late
        self._durations = durations
        self._names = names
        self._by_code = {"OK": durations.labels(*names, "OK")}

    def observe(self, code: str, seconds: float) -> None:
        """Count one finished call."""
        child = self._by_code.get(code)
        if child is None:
            child = self._by_code[code] = self._durations.labels(*self._names, code)
        child.observe(seconds)
        if code == "DEADLINE_EXCEEDED":
            self.late.inc()


@contextmanager
def metrics_endpoint(host: str, port: int, registry: CollectorRegistry) -> Iterator[int]:
    """Serve `/metrics` and answer the port it is on.

    Raises StartupError when the port is taken.
    """
    try:
        kind = _OverIpv6 if ":" in host else _Threads
        server = make_server(host, port, make_wsgi_app(registry), kind, _Silent)
    except OSError as error:
        raise StartupError(
            f"metrics port {port} on {host}: {error.strerror}; choose another METRICS_PORT"
        ) from error
    # Not prometheus_client's own start_http_server, nor serve_forever: they look twice a second, or
    # more often, whether they are to stop, and each look takes the interpreter from a call.
    stopping = Event()
    thread = Thread(target=_serve, args=(server, stopping), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        stopping.set()
        with suppress(OSError):  # wakes the thread
            socket.create_connection((host, server.server_port), _WAKING_SECONDS).close()
        thread.join()
        server.server_close()


def _serve(server: WSGIServer, stopping: Event) -> None:
    while not stopping.is_set():
        server.handle_request()


class _Threads(ThreadingMixIn, WSGIServer):
    """A slow reader does not hold up the next."""

    daemon_threads = True


class _OverIpv6(_Threads):
    address_family = socket.AF_INET6


class _Silent(WSGIRequestHandler):
    """Scrapes are not worth a line each."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""
