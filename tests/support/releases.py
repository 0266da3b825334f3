"""Tiny releases with real files, for tests that need no real model or index."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from releases.checksums import describe_files
from releases.layout import Part, part_path
from releases.manifest import Manifest
from releases.publish import publish
from releases.store import ReleaseStore, claim_path

__all__ = [
    "make_claim_older",
    "manifest_of",
    "publish_tiny",
    "stage_files",
    "tiny_files",
    "tiny_release",
]

_FILES: Mapping[Part, tuple[str, ...]] = {
    Part.MODEL: ("saved_model.pb", "variables/variables.data-00000-of-00001"),
    Part.INDEX: ("items.faiss", "popular.npz", "attributes.npz"),
    Part.EMBEDDINGS: ("ids.npy", "vectors.npy"),
}


def tiny_files(release: int, content: str = "") -> dict[str, bytes]:
    """File contents by path relative to the store; `content` makes them differ."""
    return {
        f"{part_path(part, release)}/{name}": f"{content} {release} {name}".encode()
        for part, names in _FILES.items()
        for name in names
    }


def stage_files(staging: Path, files: Mapping[str, bytes]) -> None:
    """Write the files below a staging folder."""
    for path, data in files.items():
        (staging / path).parent.mkdir(parents=True, exist_ok=True)
        (staging / path).write_bytes(data)


def manifest_of(staging: Path, release: int, **fields: Any) -> Manifest:
    """Describe the files below `staging`; `fields` replace those of a plausible manifest."""
    document: dict[str, Any] = {
        "release": release,
        "run_started": "2026-11-23T06:00:00Z",
        "data": {"first_event": 1, "last_event": 2, "cut_off": 3},
        "dimension": 2,
        "article_count": 3,
        "vocabulary_sha256": "0" * 64,
        "model_signature": {
            "inputs": {"history": {"dtype": "int64", "shape": [-1, 50]}},
            "outputs": {"user_vector": {"dtype": "float32", "shape": [-1, 2]}},
        },
        "index": {"type": "IVF1,Flat", "lists": 1, "nprobe": 1, "recall_at_200": 1.0},
        "offline_metrics": {"hr_at_200": 0.75},
        "versions": {"faiss-cpu": "1.15.1"},
        "golden_queries": [{"vector": [1.0, 0.0], "article_ids": [1], "scores": [1.0]}],
        "golden_histories": [{"history": [1], "expected_article_ids": [2]}],
        "files": [entry.model_dump() for entry in describe_files(staging, release)],
    }
    return Manifest.model_validate_json(json.dumps(document | fields))


def tiny_release(staging: Path, release: int, content: str = "") -> Manifest:
    """Stage a tiny release and describe it."""
    stage_files(staging, tiny_files(release, content))
    return manifest_of(staging, release)


def publish_tiny(store: ReleaseStore, staging: Path, release: int, content: str = "") -> Manifest:
    """Stage and publish a tiny release, whatever is in service."""
    manifest = tiny_release(staging, release, content)
    publish(store, staging, manifest, wait=None)
    return manifest


def make_claim_older(store: ReleaseStore, release: int, *, hours: float) -> None:
    """Let a claim look as if nobody had worked under it for so long."""
    claim = json.loads(b"".join(store.chunks(claim_path(release))))
    claim["claimed_at_ms"] -= int(hours * 3_600_000)
    store.put(claim_path(release), json.dumps(claim).encode())
