"""`python -m releases`: what operators, workflows and side-cars do with a store."""

import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from releases import prune as pruning
from releases import publish as publishing
from releases import verify as verifying
from releases._metrics import SideCarMetrics
from releases.checksums import OnBytes, ignore_bytes
from releases.errors import ManifestError, NotInServiceError, ReleaseError
from releases.layout import Part
from releases.manifest import Manifest, parse_manifest
from releases.rollout import Wait
from releases.serving import REPORT_SECONDS, Reporter, current_reports, releases_in_use
from releases.split import read_split_argument
from releases.store import Listing, ReleaseStore
from releases.sync import Mirror
from releases.watch import watch

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

StoreUrl = Annotated[
    str,
    typer.Option(
        "--store", envvar="RELEASES_STORE", help="Folder or URL of the store: s3://, gs://, file://"
    ),
]
Release = Annotated[int, typer.Argument(min=1, help="Id: the unix second at which its run started")]


class PartName(StrEnum):
    """A part of a release, as it is called on the command line."""

    MODEL = "model"
    INDEX = "index"
    EMBEDDINGS = "embeddings"


_NOTICE_SECONDS: Final = 2.0
"""From a withdrawal until the files go: by then the faiss servers' status has told recommenders."""
_JOIN_SECONDS: Final = 2.0
"""A store that does not answer must not hold up the end of the process."""
_COLUMNS: Final = (
    "release",
    "run started",
    "articles",
    "dimension",
    "hr_at_200",
    "recall",
    "state",
)


@app.command("list")
def list_releases(store: StoreUrl) -> None:
    """Show the published releases, newest first."""
    place = ReleaseStore(store)
    listing = place.listing()
    table = Table(*_COLUMNS)
    unreadable = []
    for release in listing.published:
        try:
            table.add_row(*_row(place.manifest(release), listing))
        except ManifestError as error:
            table.add_row(str(release), *[""] * (len(_COLUMNS) - 2), "unreadable")
            unreadable.append(str(error))
    # Rich cuts tables to 80 columns where there is no terminal; a log or a pipe wants them whole.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(*unreadable, sep="\n", end="\n" if unreadable else "")


def _row(manifest: Manifest, listing: Listing) -> list[str]:
    hit_rate = manifest.offline_metrics.get("hr_at_200")
    return [
        str(manifest.release),
        escape(manifest.run_started),
        f"{manifest.article_count:,}",
        str(manifest.dimension),
        "" if hit_rate is None else f"{hit_rate:.4f}",
        f"{manifest.index.recall_at_200:.4f}",
        "withdrawn" if manifest.release in listing.withdrawn else "usable",
    ]


@app.command()
def verify(release: Release, store: StoreUrl) -> None:
    """Read every file of a release in the store and compare it with the manifest."""
    manifest = verifying.verify(ReleaseStore(store), release)
    size = _size(manifest)
    print(f"release {release}: {len(manifest.files)} files, {size:,} bytes, all as published")


@app.command()
def publish(
    store: StoreUrl,
    staging: Annotated[Path, typer.Option(help="Folder laid out as a store", file_okay=False)],
    manifest: Annotated[Path, typer.Option(help="The release's manifest", dir_okay=False)],
    *,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Publish over what a dead publisher began")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds for the release before to come into service")
    ] = Wait.seconds,
    force: Annotated[
        bool, typer.Option("--force", help="Publish whether or not the one before is in service")
    ] = False,
) -> None:
    """Put a finished release into the store, manifest last.

    Servers hold two releases, so the one before it must be in service everywhere first. Repeat the
    command after an interruption. Other contents than those begun need --take-over, which is safe
    once the first publisher is dead.
    """
    contents = parse_manifest(manifest.read_bytes(), str(manifest))
    # Each byte: checked, stored, read back.
    with _progress("publish", 3 * _size(contents)) as on_bytes:
        publishing.publish(
            ReleaseStore(store),
            staging,
            contents,
            on_bytes,
            take_over=take_over,
            wait=None if force else Wait(wait, _say_what_is_waited_for),
        )
    print(f"release {contents.release} is published")


@app.command()
def copy(
    release: Release,
    source: Annotated[str, typer.Option("--from", help="Folder or URL of the store that has it")],
    target: Annotated[str, typer.Option("--to", help="Folder or URL of the store to publish to")],
    *,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Publish over what a dead publisher began")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds for the release before to come into service")
    ] = Wait.seconds,
    force: Annotated[
        bool, typer.Option("--force", help="Publish whether or not the one before is in service")
    ] = False,
) -> None:
    """Copy a published release to another store, manifest last.

    Files that are there already are verified and not sent again: repeat the command after an
    interruption. In the other store it is published as any: once the one before it is in service.
    """
    place = ReleaseStore(source)
    total = 2 * _size(place.manifest(release))  # each byte: stored, read back
    with _progress("copy", total) as on_bytes:
        done = publishing.copy_release(
            place,
            ReleaseStore(target),
            release,
            on_bytes,
            take_over=take_over,
            wait=None if force else Wait(wait, _say_what_is_waited_for),
        )
    print(
        f"release {release} is published: {done.bytes_sent:,} bytes sent, "
        f"{done.bytes_already_there:,} were there"
    )


@app.command()
def pull(  # noqa: PLR0913 - options of a command
    store: StoreUrl,
    into: Annotated[Path, typer.Option(help="Local folder to keep the releases in")],
    *,
    part: Annotated[
        list[PartName] | None, typer.Option(help="Repeat for several; default: all of them")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest to hold")] = 2,
    watch_seconds: Annotated[
        float | None,
        typer.Option("--watch", min=0.1, help="Sync every so many seconds until SIGTERM"),
    ] = None,
    stagger: Annotated[
        float, typer.Option(min=0, help="With --watch: fetch a new one within so many seconds")
    ] = 0.0,
    report: Annotated[
        bool, typer.Option(help="With --watch: tell the store what is held and refused")
    ] = True,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="With --watch: for Prometheus; 0 takes a free port"),
    ] = None,
) -> None:
    """Hold the newest usable releases on local disk, verified; remove withdrawn ones."""
    if watch_seconds is None and (stagger or metrics):
        raise ReleaseError("--stagger and --metrics are for --watch")
    parts = [Part[name.name] for name in part] if part else list(Part)
    place = ReleaseStore(store)
    mirror = Mirror(
        place,
        into,
        parts,
        keep=keep,
        in_use=lambda: releases_in_use(current_reports(place)),
        stagger_seconds=stagger,
        notice_seconds=0.0 if watch_seconds is None else _NOTICE_SECONDS,
    )
    if watch_seconds is not None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        reporter = Reporter(place, f"{socket.gethostname()}-{into.resolve()}") if report else None
        _pull_for_ever(mirror, watch_seconds, metrics, reporter)
        return
    _pull_once(mirror, store)


def _pull_for_ever(
    mirror: Mirror, seconds: float, metrics_address: str | None, reporter: Reporter | None
) -> None:
    registry = CollectorRegistry()
    metrics = SideCarMetrics(registry)
    if metrics_address is not None:
        _serve_metrics(metrics_address, registry)

    def look(on_bytes: OnBytes) -> None:
        try:
            metrics.note_held([manifest.release for manifest in mirror.sync(on_bytes)])
        finally:
            metrics.note_refused(mirror.refused)

    stop = _stop_on_signal()
    with _reporting(reporter, mirror, metrics, seconds, stop):
        watch(look, seconds, stop, metrics.poll_failures.inc)


@contextmanager
def _reporting(
    reporter: Reporter | None,
    mirror: Mirror,
    metrics: SideCarMetrics,
    seconds: float,
    stop: threading.Event,
) -> Iterator[None]:
    """Report what is on local disk until `stop` is set, in a thread of its own.

    Who is silent is in no publisher's way, and a fetch may take minutes, or fail again and again.
    """
    if reporter is None:
        yield
        return

    def report() -> None:
        watch(
            lambda _: reporter.tell(mirror.on_disk(), (), mirror.refused),
            min(seconds, REPORT_SECONDS),
            stop,
            metrics.poll_failures.inc,
        )
        reporter.take_back()

    thread = threading.Thread(target=report, name="report-serving", daemon=True)
    thread.start()
    yield
    thread.join(_JOIN_SECONDS)


def _serve_metrics(address: str, registry: CollectorRegistry) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ReleaseError(f"--metrics: {address!r} is not host:port")
    try:
        server, _ = start_http_server(int(port), host, registry)
    except OSError as error:
        raise ReleaseError(f"--metrics: {address}: {error.strerror}") from error
    logging.getLogger(__name__).info("metrics on port %d", server.server_port)


def _pull_once(mirror: Mirror, store: str) -> None:
    with _progress("pull", None) as on_bytes:
        held = mirror.sync(on_bytes)
    holding = ", ".join(str(manifest.release) for manifest in held) or "nothing"
    if mirror.refused:
        reasons = "; ".join(f"release {r} refused: {why}" for r, why in mirror.refused.items())
        raise ReleaseError(f"{reasons} (holding {holding})")
    if not held:
        raise ReleaseError(f"{store} has no usable release")
    print(f"holding {holding}")


@app.command()
def withdraw(release: Release, store: StoreUrl) -> None:
    """Mark a release as no longer to be used: mirrors drop it at their next look."""
    ReleaseStore(store).withdraw(release)
    print(f"release {release} is withdrawn")


@app.command()
def split(
    division: Annotated[
        str, typer.Argument(metavar="RELEASE=SHARE%", help="Such as 1700000000=10%")
    ],
    store: StoreUrl,
) -> None:
    """Give a stable share of the users a release, the others the next older one in service.

    It may be set before the release is published. 100% completes a canary, `withdraw` ends it.
    """
    chosen = read_split_argument(division)
    ReleaseStore(store).set_split(chosen)
    print(f"release {chosen.release}: {chosen.share:.1%} of the users")


@app.command()
def prune(
    store: StoreUrl,
    keep: Annotated[int, typer.Option(min=2, help="Usable releases to keep; servers hold two")],
) -> None:
    """Remove all but the newest releases, manifests first."""
    removed = pruning.prune(ReleaseStore(store), keep)
    print(f"removed {', '.join(map(str, removed)) or 'nothing'}")


def _size(manifest: Manifest) -> int:
    return sum(entry.size for entry in manifest.files)


def _say_what_is_waited_for(why: str) -> None:
    print(f"waiting: {why}", file=sys.stderr)


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _signal, _frame: stop.set())
    return stop


@contextmanager
def _progress(title: str, total: int | None) -> Iterator[OnBytes]:
    if not sys.stderr.isatty():
        yield ignore_bytes
        return
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code, after one line on stderr if it is not 0."""
    try:
        code = app(arguments, prog_name="python -m releases", standalone_mode=False)
    except typer.TyperException as error:
        return _complain(f"{error.format_message()} (see python -m releases --help)")
    except NotInServiceError as error:
        return _complain(f"{error}; --force publishes all the same")
    except (ReleaseError, OSError) as error:
        return _complain(str(error))
    return code if isinstance(code, int) else 0


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
