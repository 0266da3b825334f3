"""Which releases a server is to hold."""

from collections.abc import Collection, Sequence

__all__ = ["releases_to_hold"]


def releases_to_hold(
    usable: Sequence[int], held: Collection[int], in_use: Collection[int], keep: int
) -> list[int]:
    """Choose up to `keep` releases, newest first.

    `usable`, newest first, may be fetched; `held` are there already. What is held and in use stays,
    whatever is newer: when all places are taken so, the newest waits. Else the newest is wanted,
    then what is held, and only where that does not fill the places older ones: a server that fell
    behind skips them.
    """
    if not usable:
        return []
    present = sorted(held, reverse=True)
    # With a single place nothing newer could ever come.
    busy = [release for release in present if release in in_use] if keep > 1 else []
    wanted = list(dict.fromkeys([*busy, usable[0], *present, *usable]))[:keep]
    return sorted(wanted, reverse=True)
