"""What a bench found, as figures with their musts and aims."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from loadtest.bench.comparison import OURS, PLAIN_CHAIN, Pairs
from loadtest.bench.ladder import Rungs, highest
from loadtest.bench.tails import QUIET, SCRAPED, SWAPPED, Tails
from loadtest.latencies import Latencies
from loadtest.measurement import Measurement
from loadtest.report import percentile_plot, summary_of
from reporting import Figure, LineChart, Report, Section, Series, Table

__all__ = ["Found", "bench_report", "cpu", "p50", "p99"]

_MIB = 1024 * 1024
_ALLOWANCE_MIB = 100.0


def p50(one: Measurement) -> float:
    """Median latency in ms."""
    return one.latencies.percentile_ms(50)


def p99(one: Measurement) -> float:
    """99th percentile of latency in ms."""
    return one.latencies.percentile_ms(99)


def cpu(one: Measurement) -> float:
    """CPU of all servers in ms per answer."""
    return one.cpu_ms_per_request or 0.0


@dataclass(frozen=True)
class Found:
    """Everything that was measured in one run."""

    pairs: Sequence[Pairs]
    tails: Tails
    floor: Sequence[Latencies]
    """Of each round, like the next two."""
    bare_search: Sequence[Latencies]
    null_call: Sequence[Latencies]
    rungs: Rungs
    """At which the highest rates with p99 within `budget_ms` were searched."""
    budget_ms: float
    serving_seconds: Mapping[str, float]
    index_bytes: int
    recall: float
    recall_of_few_lists: float
    articles: int

    def of(self, label: str) -> Pairs:
        """Answer the pairs of a plan."""
        return next(pairs for pairs in self.pairs if pairs.label == label)


def bench_report(found: Found, *, quick: bool) -> Report:
    """Put figures and sections together; the quick form has no musts."""
    figures = [
        *_ratios(found), *_rates(found), *_slowest(found), *_memory(found), *_starts(found),
        *_honesty(found),
    ]  # fmt: skip
    if quick:
        figures = [Figure(one.name, one.value, one.unit) for one in figures]
    return Report(
        target="bench",
        figures=tuple(figures),
        details={
            "articles": found.articles,
            "measurements": {
                pairs.label: {
                    stack: [summary_of(one) for one in measured]
                    for stack, measured in pairs.by_stack.items()
                }
                for pairs in found.pairs
            },
            "beside": {
                name: [latencies.percentile_ms(50) for latencies in each]
                for name, each in _beside(found).items()
            },
            "rungs": {
                stack: [asdict(rung) for rung in rungs] for stack, rungs in found.rungs.items()
            },
        },
        sections=_sections(found),
    )


def _ratios(found: Found) -> list[Figure]:
    alone = found.of("1 clients")
    saturated = found.pairs[-1]
    figures = [
        Figure("p50 of 1 client / plain chain", alone.ratio(p50), must="<= 0.80", aim="<= 0.60"),
        Figure(
            "p50 of 1 client / floor without RPC", _over(alone, OURS, found.floor),
            must="<= 3.5", aim="<= 2",
        ),
        Figure(
            f"CPU per answer at {saturated.label} / plain chain", saturated.ratio(cpu),
            must="<= 0.50", aim="<= 0.35",
        ),
    ]  # fmt: skip
    for pairs in found.pairs:
        if pairs.plan.rate is None:
            continue
        name, busy = f"at {pairs.label} / plain chain", pairs.plan.rate >= 500
        figures.append(
            Figure(
                f"CPU per answer {name}", pairs.ratio(cpu),
                must="<= 0.75" if busy else None, aim="<= 0.50" if busy else None,
            )
        )  # fmt: skip
        sustained = pairs.plain_sustains
        figures += [
            Figure(f"p50 {name}", pairs.ratio(p50), must="<= 1.05" if sustained else None),
            Figure(f"p99 {name}", pairs.ratio(p99), must="<= 1.15" if sustained else None),
        ]
    return figures


def _over(pairs: Pairs, stack: str, beside: Sequence[Latencies]) -> float:
    rounds = zip(pairs.by_stack[stack], beside, strict=True)
    return median(p50(one) / max(other.percentile_ms(50), 1e-3) for one, other in rounds)


def _rates(found: Found) -> list[Figure]:
    ours, plain = highest(found.rungs[OURS]), highest(found.rungs[PLAIN_CHAIN])
    lowest = found.rungs[PLAIN_CHAIN][0].rate
    within = f"with p99 within {found.budget_ms:g} ms"
    name = f"highest rate {within} / plain chain"
    if not plain:  # then it is at least as many times the lowest
        name += f", which kept not even {lowest:g}/s"
    return [
        Figure(name, ours / (plain or lowest), must=">= 1.5", aim=">= 2.5"),
        Figure(f"highest rate {within}", ours, "1/s", aim=">= 2000"),
        Figure(f"highest rate {within}, plain chain", plain, "1/s"),
    ]  # fmt: skip


def _slowest(found: Found) -> list[Figure]:
    quiet = _together(found.tails[QUIET]).percentile_ms(99.9)
    return [
        Figure(
            f"p99.9, {name} / {QUIET}", _together(found.tails[name]).percentile_ms(99.9) / quiet,
            aim="<= 1.25",
        )
        for name in (SCRAPED, SWAPPED)
    ]  # fmt: skip


def _together(measured: Sequence[Measurement]) -> Latencies:
    return Latencies.merged(one.latencies.encode() for one in measured)


def _memory(found: Found) -> list[Figure]:
    usage = found.pairs[-1].by_stack[OURS][-1].usage
    if usage is None:
        return []
    allowed = found.index_bytes / _MIB + _ALLOWANCE_MIB
    return [
        Figure(
            "memory of the faiss server / index file and 100 MB",
            usage.by_process["faiss-server"].memory_mib / allowed, must="<= 1.2", aim="<= 1.05",
        ),
        Figure(
            "memory of the recommender", usage.by_process["recommender"].memory_mib, "MiB",
            must="<= 120", aim="<= 80",
        ),
    ]  # fmt: skip


def _starts(found: Found) -> list[Figure]:
    musts = {"recommender": "<= 2", "faiss-server": "<= 3"}
    return [
        Figure(f"{name} SERVING after", seconds, "s", must=musts[name], aim="<= 1")
        for name, seconds in found.serving_seconds.items()
    ]


def _honesty(found: Found) -> list[Figure]:
    """That the opponent and the catalogue are what they are to be."""
    plain = _over(found.of("1 clients"), PLAIN_CHAIN, found.null_call)
    return [
        Figure("p50 of 1 client, plain chain / null call", plain, must="<= 10"),
        Figure("recall@200", found.recall, must=">= 0.99"),
        Figure("recall@200 of 16 lists", found.recall_of_few_lists, must="<= 0.95"),
    ]


def _beside(found: Found) -> dict[str, Sequence[Latencies]]:
    return {
        "floor without RPC": found.floor,
        "bare faiss search": found.bare_search,
        "null grpc.aio call": found.null_call,
    }


def _sections(found: Found) -> tuple[Section, ...]:
    return (
        Section(
            "Latency over rate",
            "Medians over all rounds, from the moment at which a request was due.",
            (_over_rate(found), _table(found)),
        ),
        Section(
            "Percentiles of one client",
            "The x axis counts nines: 1 is p90, 2 is p99, 3 is p99.9. All rounds together.",
            (_percentiles(found),),
        ),
        Section(
            "Slowest answers",
            f"This stack, {found.tails[QUIET][0].plan.rate:g} requests/s, all rounds together.",
            (_tails_table(found.tails),),
        ),
        Section(
            f"Rates with p99 within {found.budget_ms:g} ms",
            "Asked until two in a row were missed, then between the last kept and the next. The "
            "host of a virtual machine takes cores away: the quietest pieces are judged.",
            (_rungs_table(found.rungs),),
        ),
        Section("Beside the stacks", "Medians over all rounds.", (_beside_table(found),)),
    )


def _rungs_table(rungs_of: Rungs) -> Table:
    return Table(
        ("asked", "stack", "p99 ms", "PERSONALIZED", "taken by the host", "kept"),
        tuple(
            (
                f"{rung.rate:.3g}/s", stack, rung.p99_ms, rung.personalized_share,
                f"{rung.stolen_share:.1%}", "yes" if rung.is_kept else "no",
            )
            for stack, rungs in rungs_of.items()
            for rung in rungs
        ),
    )  # fmt: skip


def _over_rate(found: Found) -> LineChart:
    at_rates = [pairs for pairs in found.pairs if pairs.plan.rate is not None]
    return LineChart(
        "requests/s",
        "ms",
        tuple(
            Series(
                f"{stack}, {name}",
                tuple((pairs.plan.rate or 0.0, pairs.median_of(stack, each)) for pairs in at_rates),
            )
            for stack in (OURS, PLAIN_CHAIN)
            for name, each in (("p50", p50), ("p99", p99))
        ),
    )


def _table(found: Found) -> Table:
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (
            pairs.label,
            stack,
            pairs.median_of(stack, p50),
            pairs.median_of(stack, p99),
            pairs.median_of(stack, cpu),
            pairs.median_of(stack, lambda one: one.per_second),
            pairs.median_of(stack, lambda one: one.personalized_share),
        )
        for pairs in found.pairs
        for stack in (OURS, PLAIN_CHAIN)
    )
    return Table(
        ("asked", "stack", "p50 ms", "p99 ms", "CPU ms", "answers/s", "PERSONALIZED"), rows
    )


def _percentiles(found: Found) -> LineChart:
    alone = found.of("1 clients")
    return percentile_plot({
        **{
            stack: _together(measured)
            for stack, measured in alone.by_stack.items()
        },
        **{
            name: Latencies.merged(one.encode() for one in each)
            for name, each in _beside(found).items()
        },
    })  # fmt: skip


def _tails_table(tails: Tails) -> Table:
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (name, latencies.count, *(latencies.percentile_ms(each) for each in (50, 99, 99.9, 100)))
        for name, measured in tails.items()
        for latencies in (_together(measured),)
    )
    return Table(("meanwhile", "answers", "p50 ms", "p99 ms", "p99.9 ms", "longest ms"), rows)


def _beside_table(found: Found) -> Table:
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (
            name,
            median(one.percentile_ms(50) for one in each),
            median(one.percentile_ms(99) for one in each),
        )
        for name, each in _beside(found).items()
    )
    return Table(("what", "p50 ms", "p99 ms"), rows)
