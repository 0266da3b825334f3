"""A bad model never comes into service: the gate refuses it, and the servers go on as before."""

import csv
import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from recsys.faiss.v1 import faiss_service_pb2
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from releases.store import ReleaseStore

pytestmark = pytest.mark.timeout(300)


def poison(events: Path, into: Path) -> Path:
    """The same log, but which article was viewed is shuffled among all views."""
    with events.open(newline="") as file:
        rows = list(csv.DictReader(file))
    articles = [row["item_id"] for row in rows]
    random.Random(5).shuffle(articles)
    with into.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {**row, "item_id": article} for row, article in zip(rows, articles, strict=True)
        )
    return into


class Asking(threading.Thread):
    """Asks one user after another until told to end; keeps what answered."""

    def __init__(self, running, users) -> None:
        super().__init__()
        self._running, self._users = running, users
        self._end = threading.Event()
        self.answers: list[tuple[int, int]] = []

    def run(self) -> None:
        while not self._end.wait(0.05):
            for user in self._users:
                request = pb2.GetCandidatesRequest(
                    user_id=user.user_id, recent_article_ids=user.article_ids[::-1]
                )
                answer = self._running.recommender.GetCandidates(request, timeout=30)
                self.answers.append((answer.release, answer.source))

    def end(self) -> list[tuple[int, int]]:
        self._end.set()
        self.join()
        return self.answers


def test_a_poisoned_log_is_refused_and_the_old_release_keeps_serving(learnt, running, tmp_path):
    store, work = ReleaseStore(str(learnt.store)), tmp_path / "work"
    before = store.listing()
    asking = Asking(running, learnt.views[:3])
    asking.start()
    command = [sys.executable, "-m", "pipeline", "run", "--store", store.url]
    command += ["--events", str(poison(learnt.events, tmp_path / "poisoned.csv"))]
    command += ["--workdir", str(work), "--split", "last-view", "--max-epochs", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = asking.end()

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("gate: release ")
    assert f"that of release {learnt.manifest.release} when it came is " in line
    report = json.loads((work / "report.json").read_text())
    refused = [figure["name"] for figure in report["figures"] if figure["holds"] is False]
    assert any("when it came" in name for name in refused)

    assert store.listing() == before
    status = running.faiss.GetStatus(faiss_service_pb2.GetStatusRequest(), timeout=30)
    assert [each.release for each in status.releases] == [learnt.manifest.release]
    assert {release for release, _ in answers} == {learnt.manifest.release}
    assert answers[-1] == (learnt.manifest.release, pb2.SOURCE_PERSONALIZED)
