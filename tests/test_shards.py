"""Packing: what goes into which sequence."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import packing
from pipeline.data.packing import Piece, best_fill, pack


def pieces(lengths: list[int]) -> list[Piece]:
    return [Piece([number] * length, [], None) for number, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 30), max_size=9), st.integers(0, 60))
def test_nothing_fills_the_room_better(lengths, room):
    chosen = best_fill(lengths, room)
    every = (c for count in range(len(lengths) + 1) for c in combinations(range(len(lengths)), count))
    sums = [sum(lengths[index] for index in each) for each in every]
    assert sum(lengths[index] for index in chosen) == max(each for each in sums if each <= room)
    assert chosen == sorted(set(chosen))


def test_the_earlier_of_two_that_fill_it_is_taken():
    assert best_fill([4, 4, 4], 8) == [0, 1]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(50, 90), st.integers(1, 12))
def test_every_piece_is_in_one_group_and_none_overflows(lengths, capacity, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW", window)
        groups = list(pack(pieces(lengths), capacity))
    numbers = [[piece.tokens[0] for piece in group] for group in groups]
    assert sorted(number for group in numbers for number in group) == list(range(len(lengths)))
    assert all(sum(len(piece.tokens) for piece in group) <= capacity for group in groups)
    assert [group[0] for group in numbers] == sorted(group[0] for group in numbers)  # none waits for ever


def test_little_is_left_empty():
    lengths = [40 + number * 37 % 51 for number in range(2000)]
    groups = list(pack(pieces(lengths), 257))
    assert sum(lengths) / (257 * len(groups)) > 0.98


def test_a_piece_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="a sample of 9 tokens does not fit 8 positions"):
        list(pack(pieces([3, 9]), 8))
