"""Draws: published vectors, uniformity, and one number whatever the route."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrtrek_lib import draws

IDS = [f"chexpert/patient{i:05d}/study1" for i in range(6000)]
KEYS = draws.keys(0, IDS)
GAMMA = 0x9E3779B97F4A7C15


def test_splitmix64_gives_the_published_sequences():
    # First outputs of SplitMix64 seeded with 1234567 and with 0, as published with the reference C code.
    published = [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
        4593380528125082431, 16408922859458223821,
    ]  # fmt: skip
    states = [(1234567 + i * GAMMA) % 2**64 for i in range(5)]
    assert [int(draws.splitmix64(state)) for state in states] == published
    assert draws.splitmix64(np.array(states, dtype=np.uint64)).tolist() == published
    assert int(draws.splitmix64(0)) == 0xE220A8397B1DCDAF


def test_key_is_blake2b_of_the_parts():
    text = b"7\x1fnih/00000001_000"
    assert draws.key(7, "nih/00000001_000") == int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    assert draws.keys(7, ["nih/00000001_000"]).tolist() == [draws.key(7, "nih/00000001_000")]
    assert draws.key("ab", "c") != draws.key("a", "bc")


@given(st.integers(0, 99), st.text(max_size=20), st.text(min_size=1, max_size=20), st.integers(1, 9))
def test_scalar_and_column_agree(seed, sample, question, n):
    keys = draws.keys(seed, ["x", sample])
    assert draws.uniform(seed, sample, question) == draws.uniforms(keys, question)[1]
    assert 0 <= draws.uniform(seed, sample, question) < 1
    assert draws.pick(seed, sample, question, range(n)) == draws.picks(keys, question, n)[1]
    items = list(range(n))
    assert draws.shuffle(seed, sample, question, items) == draws.orders(keys, question, n)[1].tolist()
    assert items == list(range(n))


def test_a_question_per_row_equals_the_same_text():
    ids = np.array([draws.key("a"), draws.key("b")], dtype=np.uint64)
    both = draws.mix(KEYS[:2], ids)
    assert both.tolist() == [int(draws.mix(KEYS[:1], "a")[0]), int(draws.mix(KEYS[1:2], "b")[0])]


def test_draws_are_uniform_and_unrelated_between_questions():
    a, b = draws.uniforms(KEYS, "a"), draws.uniforms(KEYS, "b")
    counts = np.histogram(a, bins=20, range=(0, 1))[0]
    chi2 = ((counts - 300) ** 2 / 300).sum()
    assert chi2 < 43.8  # 0.1 % point of chi-squared, 19 degrees of freedom
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))


def test_every_permutation_is_equally_likely():
    counts = Counter(map(tuple, draws.orders(KEYS, "order", 3).tolist()))
    assert len(counts) == 6
    assert all(abs(n - 1000) < 4 * np.sqrt(1000 * 5 / 6) for n in counts.values())


def test_picks_from_counts_that_differ_by_row():
    n = np.arange(6000) % 5 + 1
    chosen = draws.picks(KEYS, "pick", n)
    assert (chosen >= 0).all() and (chosen < n).all()
    assert (chosen[n == 1] == 0).all() and set(chosen[n == 5]) == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match="nothing to pick from"):
        draws.picks(KEYS, "pick", 0)
