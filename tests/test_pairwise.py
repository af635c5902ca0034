"""How much of a product of parameters runs among the fast tests."""

from itertools import combinations, product

from tests.conftest import covering


def test_every_two_values_meet_in_few_sets():
    axes = [range(9), range(2), range(2), range(4)]
    sets = [frozenset(combinations(enumerate(values), 2)) for values in product(*axes)]
    kept = covering(sets)
    assert set().union(*(sets[n] for n in kept)) == set().union(*sets)
    assert 36 <= len(kept) <= 45  # of 144: the two longest axes alone make 36


def test_what_shows_nothing_is_kept():
    assert covering([frozenset(), frozenset({1}), frozenset({1})]) == {0, 1}
