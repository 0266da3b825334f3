import numpy as np
import pytest

from faiss_server.attributes import AttributeFilter, Attributes, Matching

SIZE = 5000


@pytest.fixture
def attributes() -> Attributes:
    return Attributes({"author": np.arange(SIZE)}, SIZE)


def authors(*ranges: range) -> frozenset[AttributeFilter]:
    return frozenset(
        AttributeFilter("author", frozenset(values), negated=False) for values in ranges
    )


def found(matching: Matching) -> list[int]:
    return matching.positions.tolist()


def test_conditions_of_few_values_are_evaluated_once(attributes: Attributes) -> None:
    filters = authors(range(500), range(250, 750))
    assert found(attributes.matching(filters)) == list(range(250, 500))
    assert attributes.matching(authors(range(500), range(250, 750))) is attributes.matching(filters)


def test_conditions_of_many_values_take_no_lasting_memory(attributes: Attributes) -> None:
    filters = authors(range(501), range(250, 750))
    first = attributes.matching(filters)
    assert found(first) == list(range(250, 501))
    assert attributes.matching(filters) is not first


def test_the_number_of_conditions_remembered_is_bounded(attributes: Attributes) -> None:
    first = attributes.matching(authors(range(1)))
    for last in range(2, 34):
        attributes.matching(authors(range(last)))
    assert attributes.matching(authors(range(1))) is not first
