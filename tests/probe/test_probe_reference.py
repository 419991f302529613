"""`probe_heads`, by hooks or inside the attention, says what the textbook says, for every number of a profile."""

import numpy as np
import pytest
from accounts import Accounts
from comparing import COUNTS, EDGES, MEASURED, flat

TOLERANCE = 1e-5


def test_the_profile_holds_the_same_arrays_as_the_textbook(accounts: Accounts) -> None:
    shapes = {name: array.shape for name, array in flat(accounts.profile).items()}
    assert shapes == {name: array.shape for name, array in accounts.expected.items()}


@pytest.mark.parametrize("name", EDGES)
def test_bins_are_the_textbooks(accounts: Accounts, name: str) -> None:
    np.testing.assert_array_equal(flat(accounts.profile)[name], accounts.expected[name])


@pytest.mark.parametrize("name", MEASURED)
def test_number_is_the_textbooks(accounts: Accounts, name: str) -> None:
    np.testing.assert_allclose(flat(accounts.profile)[name], accounts.expected[name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", COUNTS)
def test_count_is_the_textbooks_but_for_ties(accounts: Accounts, name: str) -> None:
    moved = np.abs(flat(accounts.profile)[name] - accounts.expected[name])
    assert (moved <= TOLERANCE + accounts.doubtful[..., None]).all()


def test_ties_are_rare_enough_for_the_comparison_to_mean_something(accounts: Accounts) -> None:
    assert accounts.doubtful.max() < 0.02
