"""docs/operations.md and the templates name the same numbers, and those follow from one another."""

import math
import re
from itertools import takewhile
from pathlib import Path

import pytest

from tests.support.cloudformation import ECS, serving

SERVICES = {
    "recommender": "Recommender",
    "model server": "ModelServer",
    "faiss server": "FaissServer",
}
LARGEST = {"Recommender": 100, "ModelServer": 5, "FaissServer": 5}
DOCUMENT = Path("docs/operations.md").read_text()

MEASURED_ANSWERS, MEASURED_CORES = 98, 2
SHARES = {"Recommender": 0.55, "ModelServer": 0.28, "FaissServer": 0.17}
CPU_MS = {"Recommender": 3.2, "ModelServer": 1.6, "FaissServer": 1.0}
"""Of an answer that is alone: twice what it is at 32 clients."""
IN_FLIGHT_MS = {"Recommender": 3.7, "FaissServer": 1.0}
HEADROOM = 0.75

stack = serving()


def table(heading: str) -> list[list[str]]:
    """Answer the rows of the table that begins with these cells."""
    lines = DOCUMENT[DOCUMENT.index(f"\n| {heading} |") + 1 :].splitlines()[2:]
    rows = takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def plan() -> dict[str, tuple[int, int, float | None, float]]:
    """Of each service: cores and answers/s of a task, targets of calls in flight and of CPU."""
    return {
        SERVICES[name]: (
            int(cores),
            int(answers),
            float(in_flight) if in_flight else None,
            float(cpu.removesuffix(" %")),
        )
        for name, cores, answers, in_flight, cpu in table("service | cores of a task")
    }


def targets(name: str) -> dict[str, float]:
    return {policy: tracked["TargetValue"] for policy, tracked in stack.scaling(name).items()}


def limit(name: str) -> float:
    """Answers/s that a core of this service carries with its share of the others."""
    return MEASURED_ANSWERS / MEASURED_CORES / SHARES[name]


@pytest.mark.parametrize("name", LARGEST)
def test_the_plan_has_the_templates_tasks_and_targets(name):
    cores, _, in_flight, cpu = plan()[name]
    assert int(stack.one(f"{name}Task")["Cpu"]) == cores * 1024
    wanted = {"cpu": cpu} | ({} if in_flight is None else {"calls-in-flight": in_flight})
    assert targets(name) == wanted


@pytest.mark.parametrize("name", LARGEST)
def test_tasks_are_planned_with_a_quarter_to_spare(name):
    cores, answers, in_flight, cpu = plan()[name]
    assert answers <= HEADROOM * limit(name) * cores
    assert answers >= 0.9 * HEADROOM * limit(name) * cores
    if in_flight is not None:
        at_the_limit = limit(name) * cores * IN_FLIGHT_MS[name] / 1000
        assert 0.65 <= in_flight / at_the_limit <= 0.77
        # Where there are calls in flight, CPU is the second line, at the limit.
        assert cpu == pytest.approx(limit(name) * CPU_MS[name] / 10, abs=2)
    else:
        assert cpu == pytest.approx(answers * CPU_MS[name] / 10 / cores, abs=1)


@pytest.mark.parametrize("row", table("answers/s | recommender cores"), ids=lambda row: row[0])
def test_the_capacity_table_follows_from_the_plan(row):
    answers = int(re.sub(r" .*|,", "", row[0]))
    for name, cores in zip(SHARES, row[1:4], strict=True):
        assert float(cores) == pytest.approx(answers / limit(name), rel=0.05, abs=0.05)
    cells = int(row[4])
    tasks = [math.ceil(answers / cells / plan()[name][1]) + 1 for name in LARGEST]
    assert row[5] == " + ".join(map(str, tasks))
    for (name, most), count, bounds in zip(LARGEST.items(), tasks, row[6:], strict=True):
        assert count <= most
        least, largest = max(2, math.ceil(count / 2)), min(most, math.ceil(1.4 * count))
        assert bounds == f"{least} to {largest}"
        assert stack.template["Parameters"][f"{name}Max"]["MaxValue"] == most


@pytest.mark.parametrize(("where", "answers"), [("staging", "100"), ("production", "500")])
def test_parameters_are_rows_of_the_capacity_table(where, answers):
    (row,) = [row for row in table("answers/s | recommender cores") if row[0] == answers]
    parameters = serving(where).parameters
    found = [f"{parameters[f'{name}Min']} to {parameters[f'{name}Max']}" for name in LARGEST]
    assert found == row[6:]


@pytest.mark.parametrize("kind", ["platform", "serving"])
def test_the_api_takes_the_template_without_a_bucket(kind):
    assert (ECS / f"{kind}.yml").stat().st_size <= 51_200


def test_the_documents_commands_name_what_there_is():
    text = Path("docs/ecs.md").read_text()
    for file in re.findall(r"deploy/ecs/[\w/.-]+", text):
        assert Path(file).exists(), file
