"""The recommender may import nothing of `releases`, so what both must hold is compared here."""

import pytest
from pydantic import ValidationError

from recommender.domain import HISTORY_LENGTH as SERVED
from releases.layout import HISTORY_LENGTH
from releases.manifest import GoldenHistory


def test_the_recommender_asks_with_histories_of_the_length_that_models_take():
    assert SERVED == HISTORY_LENGTH


def test_a_golden_history_may_be_that_long_and_no_longer():
    longest = tuple(range(HISTORY_LENGTH))
    assert GoldenHistory(history=longest, expected_article_ids=(1,)).history == longest
    with pytest.raises(ValidationError):
        GoldenHistory(history=(*longest, 99), expected_article_ids=(1,))
