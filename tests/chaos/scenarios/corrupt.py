"""Releases that are wrong: refused with a reason, while the old one serves."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from releases.layout import INDEX_FILE, MANIFESTS, POPULAR_FILE, Part, manifest_path, part_path
from tests.chaos.cluster import Cluster
from tests.chaos.replica import Replica
from tests.chaos.rotated import Variant
from tests.chaos.stage import Rule, Scenario, Stage

__all__ = ["CORRUPT_RELEASES"]

_REFUSED_SECONDS = 10.0
_METRIC = "recsys_release_refused_total"
_WEIGHTS = "variables/variables.data-00000-of-00001"


@dataclass(frozen=True)
class _Corruption:
    """What is wrong with a release, and who must notice."""

    name: str
    refused_by: Callable[[Cluster], Sequence[Replica]]
    variant: Variant = "sound"
    spoil: Callable[[Path], None] | None = None
    """Changes the spoilt file, in the store, before the manifest makes the release visible."""
    file: tuple[Part, str] = (Part.INDEX, INDEX_FILE)
    spoil_manifest: Callable[[str], str] = lambda text: text
    quick: bool = False


def _play(stage: Stage, corruption: _Corruption) -> None:
    refusing = corruption.refused_by(stage.cluster)
    counted = {part.name: part.metric(_METRIC) for part in refusing}
    before = stage.cluster.pinned()
    release = stage.next_release()
    _plant(stage, release, corruption)
    for part in refusing:
        stage.expect_within(
            _REFUSED_SECONDS,
            lambda part=part: _refusals(part, release),
            f"{part.name}: no log line refuses the release",
        )
    stage.wait(2)
    for part in refusing:
        lines = _refusals(part, release)
        stage.expect(len(lines) <= 1, f"{part.name}: {len(lines)} log lines for one refusal")
        stage.expect(
            part.metric(_METRIC) == counted[part.name] + 1,
            f"{part.name}: the refusal is not counted in {_METRIC}",
        )
    stage.expect(stage.cluster.pinned() == before, "the old release is no longer pinned")
    stage.world.release_store.withdraw(release)
    stage.wait(2)


def _refusals(part: Replica, release: int) -> list[str]:
    return [line for line in part.log_lines() if str(release) in line and "refused" in line]


def _plant(stage: Stage, release: int, corruption: _Corruption) -> None:
    """Put a release into the store as no careful publisher would."""
    releases, store = stage.world.releases, stage.world.store
    staging = releases.staging(corruption.variant)
    for part in Part:
        home = part_path(part, release)
        shutil.copytree(staging / home, store / home)
    if corruption.spoil is not None:
        part, name = corruption.file
        corruption.spoil(store / part_path(part, release) / name)
    text = releases.manifest_file(release, corruption.variant).read_text()
    partial_file = store / MANIFESTS / f".{release}.partial"
    partial_file.write_text(corruption.spoil_manifest(text))
    partial_file.rename(store / manifest_path(release))


def _flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _indexes(cluster: Cluster) -> Sequence[Replica]:
    return cluster.indexes


def _side_cars(cluster: Cluster) -> Sequence[Replica]:
    return cluster.side_cars


def _both(cluster: Cluster) -> Sequence[Replica]:
    return [*cluster.indexes, *cluster.side_cars]


def _recommenders(cluster: Cluster) -> Sequence[Replica]:
    return cluster.recommenders


_MODEL = (Part.MODEL, _WEIGHTS)
_CORRUPTIONS = (
    _Corruption("flipped bit in the index", _indexes, spoil=_flip_bit, quick=True),
    _Corruption("flipped bit in the model", _side_cars, spoil=_flip_bit, file=_MODEL),
    _Corruption("truncated index", _indexes, spoil=_truncate),
    _Corruption("truncated model", _side_cars, spoil=_truncate, file=_MODEL),
    _Corruption("missing file", _indexes, spoil=Path.unlink, file=(Part.INDEX, POPULAR_FILE)),
    _Corruption("missing file of the model", _side_cars, spoil=Path.unlink, file=_MODEL),
    _Corruption("swapped ids", _indexes, "swapped_ids"),
    _Corruption("swapped vocabulary", _recommenders, "swapped_vocabulary", quick=True),
    _Corruption("wrong dimension", _indexes, "wrong_dimension"),
    _Corruption(
        "manifest of a future schema",
        _both,
        spoil_manifest=lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
    ),
)

CORRUPT_RELEASES = tuple(
    Scenario(
        corruption.name,
        Rule.SMOOTH,
        partial(_play, corruption=corruption),
        (corruption.variant,),
        quick=corruption.quick,
    )
    for corruption in _CORRUPTIONS
)
