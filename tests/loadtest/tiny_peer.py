"""A peer that needs nothing: exact search over a share of the vectors, in the asking process."""

import sys

import numpy as np

from loadtest.peers.clients.protocol import run


def build(place, vectors, ids, progress):
    progress(0.5)
    if place.settings.get("fails"):
        raise RuntimeError("no room\nand much more")
    np.savez(place.directory / "tiny.npz", vectors=vectors, ids=ids)


def connect(place, effort):
    """The effort is the percentage of the vectors that are looked at."""
    with np.load(place.directory / "tiny.npz") as arrays:
        looked_at = len(arrays["ids"]) * effort // 100
        vectors, ids = arrays["vectors"][:looked_at], arrays["ids"][:looked_at]

    def search(query):
        print("libraries print what they like")  # and it must not get among the answers
        return ids[np.argsort(-(vectors @ query))[: place.k]]

    return search


if __name__ == "__main__":
    run(build, connect)
    sys.exit(0)
