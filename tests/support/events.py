"""A small view log with something to learn: users walk through one of several topics."""

import csv
from pathlib import Path

import numpy as np

USERS = 300
ARTICLES = 600
TOPICS = 12


def write_events(path: Path, seed: int = 0) -> Path:
    """Write user_id,item_id,timestamp,region_id; a user's next view is near the last one."""
    random = np.random.default_rng(seed)
    size = ARTICLES // TOPICS
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user_id", "item_id", "timestamp", "region_id"])
        for user in range(USERS):
            topic, place = int(random.integers(TOPICS)), int(random.integers(size))
            for step in range(int(random.integers(10, 60))):
                place = (place + int(random.integers(1, 4))) % size
                article = 1000 + topic * size + place
                out.writerow([f"user-{user}", article, 1_700_000_000 + user + step * 60, topic % 3])
    return path


def write_items(path: Path) -> Path:
    """Write item_id,title,category for every article."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["item_id", "title", "category"])
        for article in range(ARTICLES):
            out.writerow([1000 + article, f"Title {article}", article % 5])
    return path
