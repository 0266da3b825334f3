"""What was found, as figures with their aims, a table and charts."""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

from loadtest.peers.measuring import MANY, Turn
from loadtest.peers.rounds import Compared, Contender
from loadtest.peers.systems import FAISS, OURS
from loadtest.peers.tuning import TARGET
from reporting import BarChart, Figure, LineChart, Report, Section, Series, Table

__all__ = ["peers_report", "side_by_side"]

_NONE: Final = "-"

Of = Callable[[Turn], float]


def _p50(turn: Turn) -> float:
    return turn.latencies.percentile_ms(50)


def _p99(turn: Turn) -> float:
    return turn.latencies.percentile_ms(99)


def _per_second(turn: Turn) -> float:
    return turn.per_second


def _cpu_us(turn: Turn) -> float:
    return turn.cpu_us


def _client_cpu_us(turn: Turn) -> float:
    return turn.client_cpu_us


def peers_report(compared: Compared, articles: int, *, quick: bool) -> Report:
    """Put figures and sections together; the quick form has no aims."""
    figures = [*_against_peers(compared), *_against_faiss(compared), *_own(compared)]
    if quick:
        figures = [Figure(one.name, one.value, one.unit) for one in figures]
    return Report(
        target="bench-peers",
        figures=tuple(figures),
        details={
            "articles": articles,
            "absent": compared.absent,
            "systems": {one.system.name: _details(one, compared) for one in compared.contenders},
        },
        sections=tuple(_sections(compared, articles)),
    )


def _against_peers(compared: Compared) -> Iterator[Figure]:
    ours = compared.named(OURS)
    if ours is None:
        return
    for peer in compared.contenders:
        if peer is ours or not peer.system.is_networked:
            continue
        name = peer.system.name
        for label, of in (("CPU per query", _cpu_us), ("p99", _p99)):
            for clients in (1, MANY):
                ratio = _ratio(ours, peer, clients, of)
                yield Figure(f"{label}, {_asked_by(clients)} / {name}", ratio, aim="< 1")


def _against_faiss(compared: Compared) -> Iterator[Figure]:
    ours, faiss = compared.named(OURS), compared.named(FAISS)
    if ours is not None and faiss is not None:
        yield Figure("p50, 1 client / faiss in process", _ratio(ours, faiss, 1, _p50), aim="<= 3")


def _own(compared: Compared) -> Iterator[Figure]:
    for contender in compared.contenders:
        if contender.choice is not None:
            name = f"recall@200, {contender.system.name}"
            aim = f">= {TARGET}" if contender.system.name == OURS else None
            yield Figure(name, contender.choice.recall, aim=aim)
    ours = compared.named(OURS)
    if ours is not None:
        alone, many = ours.of(1), ours.of(MANY)
        yield Figure("p50, 1 client", _median(alone, _p50), "ms")
        yield Figure("p99, 1 client", _median(alone, _p99), "ms")
        yield Figure("CPU per query, 1 client", _median(alone, _cpu_us), "µs")
        yield Figure(f"queries, {MANY} clients", _median(many, _per_second), "1/s")
        yield Figure("memory", ours.memory_mib, "MiB")


def _asked_by(clients: int) -> str:
    return "1 client" if clients == 1 else f"{clients} clients"


def _ratio(ours: Contender, other: Contender, clients: int, of: Of) -> float:
    """Answer the median of the rounds' ratios: the machine is slower in one than in the next."""
    rounds = zip(ours.of(clients), other.of(clients), strict=True)
    return median(of(one) / max(of(another), 1e-9) for one, another in rounds)


def _median(turns: list[Turn], of: Of) -> float:
    return median(map(of, turns))


def _build_seconds(contender: Contender, compared: Compared) -> float | str:
    """Ours is the bare library's: the release's index, made once more to see how long it takes."""
    if contender.system.name != OURS:
        return contender.build_seconds
    faiss = compared.named(FAISS)
    return _NONE if faiss is None else faiss.build_seconds


def _details(contender: Contender, compared: Compared) -> dict[str, object]:
    choice = contender.choice
    assert choice is not None  # noqa: S101 - it took part
    return {
        "effort": {contender.system.effort.name: choice.effort},
        "recall_at_200": choice.recall,
        "suffices": choice.suffices,
        "curve": [list(point) for point in choice.curve],
        "build_seconds": _build_seconds(contender, compared),
        "memory_mib": contender.memory_mib,
        "rounds": [
            [
                {
                    "clients": turn.clients,
                    "p50_ms": _p50(turn),
                    "p99_ms": _p99(turn),
                    "per_second": turn.per_second,
                    "cpu_us": turn.cpu_us,
                    "client_cpu_us": turn.client_cpu_us,
                }
                for turn in turns
            ]
            for turns in contender.turns
        ],
    }


def _sections(compared: Compared, articles: int) -> Iterator[Section]:
    yield Section(
        "Side by side",
        f"{articles} articles, 200 of them for each query, one query per call, medians over all "
        "rounds. Networked systems over their own protocols on 127.0.0.1; the others search in "
        "the asking process. The CPU is the server's, the memory that of all its processes.",
        (side_by_side(compared), *_bars(compared)),
    )
    yield Section(
        "Where the clients' time goes",
        "CPU of the asking processes, which is not in the table above.",
        (_clients_table(compared),),
    )
    yield Section(
        "Latency over recall",
        "Median of a question while the effort was chosen, one client: made one system after "
        "another, and kept with the index.",
        (_curves(compared),),
    )
    if compared.absent:
        rows = tuple(compared.absent.items())
        yield Section("Not measured", "", (Table(("system", "why"), rows),))


def side_by_side(compared: Compared) -> Table:
    """Answer a row for each system that was measured."""
    return Table(
        (
            "system", "effort", "recall@200", "p50 ms", "p99 ms", "queries/s", "CPU µs",
            f"p50 ms, {MANY} clients", "p99 ms", "queries/s", "CPU µs", "memory MiB", "build s",
        ),
        tuple(_row(contender, compared) for contender in compared.contenders),
    )  # fmt: skip


def _row(contender: Contender, compared: Compared) -> tuple[str | float, ...]:
    choice = contender.choice
    assert choice is not None  # noqa: S101 - it took part
    enough = "" if choice.suffices else ", the most it takes"
    return (
        contender.system.name,
        f"{contender.system.effort.name} {choice.effort}{enough}",
        choice.recall,
        *_cells(contender.of(1)),
        *_cells(contender.of(MANY)),
        contender.memory_mib,
        _build_seconds(contender, compared),
    )


def _cells(turns: list[Turn]) -> tuple[str | float, ...]:
    figures: tuple[Of, ...] = (_p50, _p99, _per_second, _cpu_us)
    return tuple(_median(turns, of) if turns else _NONE for of in figures)


def _bars(compared: Compared) -> Iterator[BarChart]:
    alone = {one.system.name: one.of(1) for one in compared.contenders}
    many = {one.system.name: one.of(MANY) for one in compared.contenders}
    yield BarChart({name: _median(turns, _p50) for name, turns in alone.items()}, "ms, p50")
    yield BarChart({name: _median(turns, _cpu_us) for name, turns in alone.items()}, "µs CPU")
    yield BarChart(
        {name: _median(turns, _per_second) for name, turns in many.items() if turns},
        f"queries/s, {MANY} clients",
    )


def _clients_table(compared: Compared) -> Table:
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (
            contender.system.name,
            *(_median(turns, _client_cpu_us) if turns else _NONE
              for turns in (contender.of(1), contender.of(MANY))),
        )
        for contender in compared.contenders
        if contender.system.is_networked
    )  # fmt: skip
    return Table(("system", "CPU µs, 1 client", f"CPU µs, {MANY} clients"), rows)


def _curves(compared: Compared) -> LineChart:
    return LineChart(
        "recall@200",
        "ms",
        tuple(
            Series(
                contender.system.name,
                tuple(
                    (recall, ms)
                    for _, recall, ms in sorted(contender.choice.curve, key=lambda point: point[1])
                    if recall >= 0.9
                ),
            )
            for contender in compared.contenders
            if contender.choice is not None and len(contender.choice.curve) > 1
        ),
    )
