"""`python -m faiss_server COMMAND`: what people do with indexes. Without a command it serves."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from faiss_server.build import BuiltIndex, Goal, OnProgress, build_index, tune_index
from faiss_server.build_errors import BuildError
from faiss_server.comparison import compare_indexes
from faiss_server.errors import ReleaseRefusedError
from faiss_server.index_files import (
    IndexFolder,
    map_ids,
    map_vectors,
    write_folder,
)
from faiss_server.inspection import inspect_index
from faiss_server.spec import AUTO
from faiss_server.taken_down import TakenDown
from faiss_server.taken_down_redis import RedisTakeDowns, read_article_ids
from releases.errors import ReleaseError
from releases.manifest import IndexInfo
from service_runtime.errors import CallError

__all__ = ["run"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Vectors = Annotated[
    Path, typer.Option(help="float32[n, d] as .npy, or a folder of embeddings with ids and vectors")
]
Ids = Annotated[
    Path | None, typer.Option(help="int64[n] as .npy; default: those beside the vectors, else rows")
]
Queries = Annotated[
    Path | None,
    typer.Option(help="User vectors float32[q, d] as .npy; default: a sample of the articles' own"),
]
Recall = Annotated[float, typer.Option(help="Of the 200 nearest articles, at the least")]
Spare = Annotated[int, typer.Option(help="Nearest articles that a search may have to leave out")]
Seed = Annotated[int, typer.Option(help="The same one makes the same index")]
Folder = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Holds items.faiss")]
K = Annotated[int, typer.Option("-k", min=1, max=6000, help="How many articles")]

ArticleFile = Annotated[Path, typer.Argument(help="Article ids, one in a line; -: from stdin")]
RedisUrl = Annotated[
    str, typer.Option(envvar="FAISS_SERVER_REDIS_URL", help="redis://, rediss:// or unix://")
]
RedisCredentials = Annotated[
    Path | None,
    typer.Option(envvar="FAISS_SERVER_REDIS_CREDENTIALS_FILE", help="A line user:password"),
]
Cluster = Annotated[
    bool, typer.Option("--cluster", envvar="FAISS_SERVER_REDIS_CLUSTER", help="A Redis Cluster")
]

_HELD_OUT = 1000


def run(arguments: list[str]) -> int:
    """Run a command; answer the exit code."""
    try:
        code = app(arguments, standalone_mode=False, prog_name="python -m faiss_server")
    except typer.Exit as ended:
        return ended.exit_code
    except typer.Abort:
        return 130
    except Exception as error:  # what typer's own exceptions are is typer's private business
        if not hasattr(error, "format_message"):
            raise
        Console(stderr=True).print(f"[red]{escape(error.format_message())}[/red]; try --help")
        return 2
    return int(code or 0)


@app.command()
def build(
    vectors: Vectors,
    out: Annotated[Path, typer.Option(help="Folder for items.faiss, index.json and index.html")],
    spec: Annotated[
        str, typer.Option(help="auto, or a faiss factory string such as IVF4096,SQ8")
    ] = AUTO,
    ids: Ids = None,
    queries: Queries = None,
    memory_gib: Annotated[
        float | None, typer.Option(help="auto: what a server may take for it; default: any")
    ] = None,
    recall: Recall = 0.99,
    spare: Spare = 50,
    seed: Seed = 1,
) -> None:
    """Train and fill an index, and choose how it is searched by measured recall."""
    with _told(), _progress() as on_progress:
        IndexFolder(out).refuse_published()
        rows = map_vectors(vectors)
        half, other = _halves(rows, queries, seed)
        built = build_index(
            rows,
            map_ids(ids, vectors, len(rows)),
            half,
            held_out=other,
            recall_target=recall,
            spare=spare,
            seed=seed,
            spec=spec,
            memory_bytes=None if memory_gib is None else int(memory_gib * 2**30),
            on_progress=on_progress,
        )
        write_folder(built, out)
    _print_info(built.info, out)


@app.command()
def tune(
    folder: Folder,
    vectors: Vectors,
    ids: Ids = None,
    queries: Queries = None,
    recall: Recall = 0.99,
    spare: Spare = 50,
    seed: Seed = 1,
) -> None:
    """Choose anew how a built index is searched; the index's file then says so too."""
    place = IndexFolder(folder)
    with _told(), _progress() as on_progress:
        place.refuse_published()
        before = place.info()
        kind, rows = place.read(), map_vectors(vectors)
        half, other = _halves(rows, queries, seed)
        goal = Goal(half, other, recall=recall, spare=spare)
        tuned = tune_index(kind.index, rows, map_ids(ids, vectors, len(rows)), goal, on_progress)
        info = tuned.info(before.type if before else type(kind.ivf).__name__, kind.lists)
        write_folder(BuiltIndex(kind.index, info), folder)
    _print_info(info, folder)


@app.command()
def inspect(folder: Folder, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show type, counts, balance of the lists, memory and checksums."""
    with _told():
        facts = inspect_index(IndexFolder(folder))
    if as_json:
        print(json.dumps({fact.name: fact.value for fact in facts}, indent=1))
        return
    table = Table(show_header=False)
    for fact in facts:
        table.add_row(fact.name, fact.value)
    Console().print(table)


@app.command()
def search(
    folder: Folder,
    article: Annotated[int | None, typer.Option(help="Ask with this article's own vector")] = None,
    queries: Annotated[Path | None, typer.Option(help="Ask with rows of this .npy file")] = None,
    row: Annotated[int, typer.Option(min=0, help="Which one")] = 0,
    k: K = 10,
    nprobe: Annotated[int | None, typer.Option(min=1, help="Default: as it was tuned")] = None,
) -> None:
    """Show the nearest articles of an article, or of a vector in a file."""
    with _told():
        place = IndexFolder(folder)
        index = place.open()
        if (article is None) == (queries is None):
            raise BuildError("name one of --article and --queries")
        if queries is not None:
            vectors = map_vectors(queries)
            if row >= len(vectors) or vectors.shape[1:] != (index.dimension,):
                raise BuildError(f"{queries}: is {list(vectors.shape)}: no row {row} to ask with")
            vector = np.array(vectors[row : row + 1], np.float32)
        else:
            position = index.positions_of(np.array([article], np.int64))
            if position[0] < 0:
                raise BuildError(f"{folder}: has no article {article}")
            vector = index.vectors_at(position)
        positions, scores = index.nearest(
            vector, min(k, len(index)), min(nprobe or _nprobe_of(place, index.lists), index.lists)
        )
    table = Table("place", "article", "score")
    for place_number, (position, score) in enumerate(zip(positions[0], scores[0], strict=True), 1):
        if position >= 0:
            table.add_row(f"{place_number}", f"{index.article_ids[position]}", f"{score:.4f}")
    Console().print(table)


@app.command()
def compare(
    first: Folder,
    second: Folder,
    k: K = 200,
    sample: Annotated[int, typer.Option(min=1, help="Articles to look up in both")] = 1000,
) -> None:
    """Show how many articles two releases share, and how far they agree on neighbours."""
    with _told():
        places = IndexFolder(first), IndexFolder(second)
        one, other = (place.open() for place in places)
        nprobes = (_nprobe_of(places[0], one.lists), _nprobe_of(places[1], other.lists))
        found = compare_indexes(one, other, nprobes, k=k, sample=sample)
    table = Table(show_header=False)
    table.add_row("articles in both", f"{found.common}")
    table.add_row("only in the first", f"{found.only_first}")
    table.add_row("only in the second", f"{found.only_second}")
    if found.overlaps.size:
        least, tenth, middle = np.percentile(found.overlaps, [0, 10, 50])
        table.add_row(f"shared of {k} neighbours, mean", f"{found.overlaps.mean():.3f}")
        table.add_row("median; a tenth is below; least", f"{middle:.3f}; {tenth:.3f}; {least:.3f}")
    Console().print(table)


@app.command()
def remove(
    articles: ArticleFile,
    redis_url: RedisUrl,
    redis_credentials_file: RedisCredentials = None,
    cluster: Cluster = False,
) -> None:
    """Take the articles of a file down, on all servers that follow this Redis."""
    with _told():
        store = RedisTakeDowns(redis_url, cluster=cluster, credentials_file=redis_credentials_file)
        removed = read_article_ids(articles)
        _say("taken down", removed, store.change(TakenDown(), removed, ()))


@app.command()
def restore(
    articles: ArticleFile,
    redis_url: RedisUrl,
    redis_credentials_file: RedisCredentials = None,
    cluster: Cluster = False,
) -> None:
    """Take the articles of a file back."""
    with _told():
        store = RedisTakeDowns(redis_url, cluster=cluster, credentials_file=redis_credentials_file)
        restored = read_article_ids(articles)
        _say("taken back", restored, store.change(TakenDown(), (), restored))


def _say(what: str, article_ids: list[int], now: TakenDown) -> None:
    print(f"{len(article_ids)} articles {what}; {now.article_ids.size} are taken down now")


def _nprobe_of(place: IndexFolder, lists: int) -> int:
    info = place.info()
    return lists if info is None else info.nprobe


def _halves(
    rows: NDArray[np.float32], queries: Path | None, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Queries to choose on, and those to state the recall of."""
    if queries is None:
        Console(stderr=True).print(
            "[yellow]no --queries: a sample of the articles asks instead of users, who may be "
            "harder to serve[/yellow]"
        )
        asking = rows
    else:
        asking = map_vectors(queries)
    # In no order: the first ones of a file may be users of one kind.
    size = min(2 * _HELD_OUT, len(asking))
    chosen = np.random.default_rng(seed).choice(len(asking), size, replace=False)
    asked = np.array(asking[chosen])
    half = len(asked) // 2
    return asked[half:], asked[: half or 1]


def _print_info(info: IndexInfo, folder: Path) -> None:
    table = Table(show_header=False)
    table.add_row("index", info.type)
    table.add_row("nprobe", f"{info.nprobe} of {info.lists}")
    if info.refine_factor > 1:
        table.add_row("refine factor", f"{info.refine_factor:g}")
    table.add_row("recall@200", f"{info.recall_at_200:.4f}")
    for point in info.curve:
        if (point.nprobe, point.refine_factor) == (info.nprobe, info.refine_factor):
            table.add_row("p50, p99 of one query", f"{point.p50_ms:.3f} ms, {point.p99_ms:.3f} ms")
    table.add_row("curve", str(folder / "index.html"))
    Console().print(table)


_EXPECTED = (
    BuildError, ReleaseRefusedError, ReleaseError, ValidationError, OSError, CallError, ValueError,
)  # fmt: skip


@contextmanager
def _told() -> Iterator[None]:
    """Say what is wrong in one line."""
    try:
        yield
    except _EXPECTED as error:
        Console(stderr=True).print(f"[red]{escape(' '.join(str(error).split()))}[/red]")
        raise typer.Exit(1) from None


@contextmanager
def _progress() -> Iterator[OnProgress]:
    columns = (
        TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks = {name: progress.add_task(name, total=None) for name in ("train", "add", "tune")}
        yield lambda stage, done, total: progress.update(tasks[stage], completed=done, total=total)
