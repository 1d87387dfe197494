"""Which sample comes when: exact counts, paired text, even spread, whole passes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training import batches, mixture
from pipeline.training.batches import OrderedDataset
from pipeline.training.mixture import (
    SHUFFLED_WHOLE,
    derive_seed,
    interleave,
    mixture_order,
    permute,
    split_budget,
    stream_order,
)

quick = settings(max_examples=80, deadline=None, database=None, derandomize=True)
hundredths = st.integers(0, 100).map(lambda n: n / 100)
fractions = st.one_of(hundredths, st.floats(0, 1))
TEXT = 1000  # size of the text stream; captions come after it


def two_streams(images: float, samples: int = 400, seed: int = 7) -> np.ndarray:
    counts = split_budget(samples, {"text": 1 - images, "captions": images})
    return mixture_order({"text": TEXT, "captions": 300}, counts, seed)


def text_part(order: np.ndarray) -> np.ndarray:
    return order[order < TEXT]


# split_budget


@quick
@given(st.integers(0, 10**6), fractions)
def test_counts_sum_to_the_budget_and_round_to_the_fraction(samples, images):
    counts = split_budget(samples, {"text": 1 - images, "captions": images})
    assert sum(counts.values()) == samples
    assert abs(counts["captions"] - samples * images) <= 0.5 + 1e-5


@quick
@given(st.integers(0, 10**5), st.lists(st.integers(0, 100), min_size=1, max_size=5).filter(any))
def test_counts_of_many_streams_are_exact_within_one(samples, weights):
    shares = {f"stream{i}": weight / sum(weights) for i, weight in enumerate(weights)}
    counts = split_budget(samples, shares)
    assert sum(counts.values()) == samples
    assert all(abs(counts[name] - samples * share) < 1 for name, share in shares.items())
    assert all(counts[name] == 0 for name, share in shares.items() if share == 0)


@pytest.mark.parametrize(("images", "captions"), [(0, 0), (1, 3000), (0.1, 300), (0.01, 30), (0.8, 2400)])
def test_round_fractions_give_round_counts(images, captions):
    assert split_budget(3000, {"text": 1 - images, "captions": images}) == {
        "text": 3000 - captions,
        "captions": captions,
    }


def test_a_budget_too_small_for_a_share_still_adds_up():
    assert split_budget(4, {"text": 0.9, "captions": 0.1}) == {"text": 4, "captions": 0}


@pytest.mark.parametrize(
    "shares",
    [
        {"text": 0.5, "captions": 0.4},
        {"text": 0.9, "captions": 0.2},
        {"text": 1.1, "captions": -0.1},
        {"text": float("nan"), "captions": 1.0},
        {},
    ],
)
def test_fractions_that_are_no_mixture_are_refused(shares):
    with pytest.raises(ValueError, match="fractions"):
        split_budget(100, shares)


# stream_order


@quick
@given(st.integers(1, 50), st.integers(0, 200))
def test_whole_passes_come_before_repeats(size, count):
    order = stream_order(size, count, 7, "text")
    assert len(order) == count
    for start in range(0, count, size):
        one_pass = order[start : start + size]
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(range(size))


def test_passes_are_shuffled_and_differ():
    order = stream_order(100, 200, 7, "text")
    first, second = order[:100].tolist(), order[100:].tolist()
    assert first != sorted(first)
    assert first != second


@quick
@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 200))
def test_a_shorter_order_is_a_prefix_of_a_longer_one(size, one, other):
    short, long = sorted((one, other))
    assert stream_order(size, long, 7, "text")[:short].tolist() == stream_order(size, short, 7, "text").tolist()


def test_order_depends_on_seed_and_stream():
    orders = {tuple(stream_order(100, 100, seed, name)) for seed in (1, 2) for name in ("text", "captions")}
    assert len(orders) == 4


def test_samples_of_an_empty_stream_are_refused():
    with pytest.raises(ValueError, match="'text' is empty"):
        stream_order(0, 5, 7, "text")


def test_nothing_of_an_empty_stream_is_fine():
    assert stream_order(0, 0, 7, "text").tolist() == []


# interleave


def worst_deviation(owner: np.ndarray, stream: int) -> float:
    """The most by which the samples of a stream in any window differ from their share."""
    mine = owner == stream
    ahead = np.concatenate([[0], np.cumsum(mine - mine.mean())])
    return ahead.max() - ahead.min()


@quick
@given(st.integers(0, 300), st.integers(0, 300))
def test_interleaving_uses_every_sample_once(text, captions):
    owner, _ = interleave({"text": text, "captions": captions})
    assert np.bincount(owner, minlength=2).tolist() == [text, captions]


@quick
@given(st.integers(1, 300), st.integers(1, 300))
def test_any_window_holds_its_share_within_one_sample(text, captions):
    owner, _ = interleave({"text": text, "captions": captions})
    assert worst_deviation(owner, 0) <= 1 + 1e-9


@quick
@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 100))
def test_any_window_of_three_streams_holds_their_shares_within_two_samples(text, captions, instructions):
    owner, _ = interleave({"text": text, "captions": captions, "instructions": instructions})
    assert max(worst_deviation(owner, stream) for stream in range(3)) < 2


def test_a_rare_stream_stands_in_the_middle_of_its_stretches():
    places = np.flatnonzero(interleave({"text": 90, "captions": 10})[0] == 1)
    assert set(places % 10) <= {4, 5}
    assert (places // 10).tolist() == list(range(10))


# mixture_order


@quick
@given(fractions)
def test_mixture_holds_exact_counts(images):
    order = two_streams(images)
    counts = split_budget(400, {"text": 1 - images, "captions": images})
    assert len(order) == 400
    assert len(text_part(order)) == counts["text"]
    assert ((order >= TEXT) & (order < TEXT + 300)).sum() == counts["captions"]


@quick
@given(fractions, fractions)
def test_text_order_at_more_images_is_a_prefix_of_that_at_fewer(one, other):
    few, many = sorted((one, other))
    short, long = text_part(two_streams(many)), text_part(two_streams(few))
    assert long[: len(short)].tolist() == short.tolist()


def test_text_only_runs_read_the_order_of_mixed_runs_without_a_caption_stream():
    alone = mixture_order({"text": TEXT}, {"text": 400}, 7)
    mixed = text_part(two_streams(0.25))
    assert alone[: len(mixed)].tolist() == mixed.tolist()


def test_same_caption_order_at_every_fraction():
    few, many = two_streams(0.1), two_streams(0.5)
    few, many = few[few >= TEXT], many[many >= TEXT]
    assert many[: len(few)].tolist() == few.tolist()


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_instructions_take_the_place_of_captions_and_leave_the_text(share):
    counts = {"text": 300, "captions": round(100 * (1 - share)), "instructions": round(100 * share)}
    order = mixture_order({"text": TEXT, "captions": 300, "instructions": 50}, counts, 7)
    plain = two_streams(0.25)
    assert text_part(order).tolist() == text_part(plain).tolist()
    captions = order[(order >= TEXT) & (order < TEXT + 300)]
    assert captions.tolist() == plain[plain >= TEXT][: counts["captions"]].tolist()
    assert (order >= TEXT + 300).sum() == counts["instructions"]


def test_streams_may_be_listed_in_any_order():
    counts = {"text": 300, "captions": 100}
    order = mixture_order({"captions": 300, "text": TEXT}, counts, 7)
    assert (order[order >= 300] - 300).tolist() == text_part(two_streams(0.25)).tolist()


def test_another_seed_gives_another_order():
    assert two_streams(0.1, seed=7).tolist() != two_streams(0.1, seed=8).tolist()


def test_global_random_state_is_neither_used_nor_changed():
    np.random.seed(1)
    first = two_streams(0.1)
    after = np.random.random()
    np.random.seed(2)
    assert two_streams(0.1).tolist() == first.tolist()
    np.random.seed(1)
    assert np.random.random() == after


def test_a_stream_without_samples_cannot_be_mixed_in():
    with pytest.raises(ValueError, match="'captions' is empty"):
        mixture_order({"text": 10, "captions": 0}, {"text": 5, "captions": 5}, 7)


# stretches of an order


def whole_order(sizes: dict[str, int], counts: dict[str, int], seed: int) -> list[int]:
    """The order as it is defined: whole passes of every stream, sorted by where each sample stands."""
    places, offset = [], 0
    for stream, (name, size) in enumerate(sizes.items()):
        count = counts.get(name, 0)
        passes = [np.random.default_rng(derive_seed(seed, name, n)).permutation(size) for n in range(-(-count // size))]
        for number, sample in enumerate(np.concatenate([*passes, []])[:count]):
            places.append(((number + 0.5) / count, stream, number, offset + int(sample)))
        offset += size
    return [sample for *_, sample in sorted(places)]


class Numbers(OrderedDataset):
    """A run's samples of which only the numbers are looked at: no shards are needed."""

    def __init__(self, sizes, counts, batch, first, rank, ranks):
        self.sizes, self.counts, self.seed, self.batch = sizes, counts, 7, batch
        self.first, self.rank, self.ranks = first, rank, ranks

    def __getitem__(self, number):
        return int(number)


@quick
@given(fractions, st.integers(1, 6), st.integers(1, 4), st.integers(1, 12), st.data())
def test_any_number_of_ranks_reads_the_run_of_one_from_any_step(images, share, ranks, steps, data):
    batch, sizes = share * ranks, {"text": 40, "captions": 11}
    counts = split_budget(batch * steps, {"text": 1 - images, "captions": images})
    assert sum(counts.values()) * 64 == batch * steps * 64  # tokens, at 64 positions a sequence
    first = data.draw(st.integers(0, steps))
    whole = mixture_order(sizes, counts, 7).reshape(steps, batch)[first:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "STRETCH", data.draw(st.integers(1, 30)))  # what is laid down at once shows nowhere
        shares = [list(Numbers(sizes, counts, batch, first, rank, ranks)) for rank in range(ranks)]
    read = np.array(shares, int).reshape(ranks, steps - first, share)
    assert np.concatenate(read, axis=1).tolist() == whole.tolist()


three_streams = st.tuples(*[st.tuples(st.integers(1, 40), st.integers(0, 100))] * 3)


@quick
@given(three_streams, st.lists(st.floats(0, 1), max_size=4))
def test_stretches_make_the_whole_order(streams, cuts):
    sizes = {f"stream{i}": size for i, (size, _) in enumerate(streams)}
    counts = {f"stream{i}": count for i, (_, count) in enumerate(streams)}
    total = sum(counts.values())
    ends = sorted({0, total, *(int(cut * total) for cut in cuts)})
    parts = [mixture_order(sizes, counts, 7, start, stop).tolist() for start, stop in zip(ends, ends[1:])]
    expected = whole_order(sizes, counts, 7)
    assert [sample for part in parts for sample in part] == expected
    assert mixture_order(sizes, counts, 7).tolist() == expected


@quick
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_number_by_number_has_every_number_once(size, seed):
    assert sorted(permute(np.arange(size), size, seed)) == list(range(size))


def test_a_permutation_number_by_number_is_random():
    """Means, neighbours and fixed points as a random order has them, to four standard deviations."""
    size, seeds = 20_000, range(40)
    orders = [permute(np.arange(size), size, derive_seed(seed)) for seed in seeds]
    tenths = np.array([order.reshape(10, -1).mean(axis=1) for order in orders]) - (size - 1) / 2
    assert abs(tenths / (size / np.sqrt(12 * size / 10))).max() < 4.5
    neighbours = [np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders]
    assert abs(np.mean(neighbours)) < 4 / np.sqrt(size * len(orders))
    fixed = sum((order == np.arange(size)).sum() for order in orders)
    assert abs(fixed - len(orders)) < 4 * np.sqrt(len(orders))
    assert len({tuple(order[:5]) for order in orders}) == len(orders)


def test_large_streams_are_shuffled_number_by_number(monkeypatch):
    """The same properties as in memory: every sample once a pass, the same stretch from anywhere, other passes."""
    monkeypatch.setattr(mixture, "SHUFFLED_WHOLE", 100)
    order = stream_order(1000, 2500, 7, "text")
    assert sorted(order[:1000]) == sorted(order[1000:2000]) == list(range(1000))
    assert order[:1000].tolist() != order[1000:2000].tolist()
    assert len(set(order[2000:])) == 500
    assert stream_order(1000, 2100, 7, "text", start=900).tolist() == order[900:2100].tolist()
    counts = {"text": 2500, "captions": 60}
    mixed = mixture_order({"text": 1000, "captions": 50}, counts, 7)
    assert mixed[mixed < 1000].tolist() == order.tolist()
    assert mixture_order({"text": 1000, "captions": 50}, counts, 7, 1500, 1900).tolist() == mixed[1500:1900].tolist()


def test_the_order_of_trillions_of_tokens_is_never_in_memory():
    sequences = 4_319_000_000_000 // 2048
    sizes = {"text": sequences - 5, "captions": SHUFFLED_WHOLE + 1}
    counts = {"text": sequences, "captions": sequences // 10}
    total = sum(counts.values())
    order = mixture_order(sizes, counts, 7, total - 1000, total)
    assert len(order) == 1000 and order.min() >= 0 and order.max() < sum(sizes.values())
    assert (order >= sizes["text"]).sum() == pytest.approx(1000 / 11, abs=2)
    assert mixture_order(sizes, counts, 7, total - 500, total - 200).tolist() == order[500:800].tolist()


# derive_seed


def test_derived_seeds_differ_by_seed_and_by_name():
    assert len({derive_seed(1, "a"), derive_seed(2, "a"), derive_seed(1, "b"), derive_seed(1, "a", 0)}) == 4


def test_derived_seeds_are_the_same_in_every_process():
    assert derive_seed(7, "text", 0) == 6707186613284204192
