"""Every random choice of the study: a hash of (seed, sample id, question id), never a generator state.

A draw therefore does not depend on the order of rows, on chunking, on threads, or on which other
questions exist. Keys are BLAKE2b-64 of text; one splitmix64 step turns a key and a question into the bits
of one draw (Steele, Lea & Flood 2014, the finaliser of java.util.SplittableRandom).

Two faces: scalars (`uniform`, `pick`, `shuffle`) for one sample, and columns (`keys`, then `uniforms`,
`picks`, `orders`) for tables. Both give the same numbers.

>>> uniform(0, "chexpert/patient00001/study1", "effusion/size") == float(
...     uniforms(keys(0, ["chexpert/patient00001/study1"]), "effusion/size")[0])
True
"""

import hashlib
from collections.abc import Sequence

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def key(*parts: object) -> int:
    """64-bit key of the parts, each taken as text; (1, "a") and ("1", "a") are the same key.

    The parts are joined by the unit separator, which no identifier of ours contains, so ("ab", "c") and
    ("a", "bc") differ.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def keys(seed: int, sample_ids: Sequence[str]) -> np.ndarray:
    """uint64 (N,): `key(seed, sample_id)` of every sample, about one million ids per second."""
    head = f"{seed}\x1f".encode()
    digests = b"".join(hashlib.blake2b(head + s.encode(), digest_size=8).digest() for s in sample_ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def splitmix64(state: np.ndarray | int) -> np.ndarray:
    """uint64, same shape: the value a SplitMix64 generator gives from this state; wraps modulo 2^64.

    Source: https://prng.di.unimi.it/splitmix64.c
    """
    state = np.asarray(state, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = state + _GAMMA
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
        return z ^ (z >> np.uint64(31))


def mix(sample_keys: np.ndarray | int, question_id: str | np.ndarray) -> np.ndarray:
    """uint64 (N,): the bits of one draw per sample.

    question_id is one text for all samples, or uint64 (N,) from `key(text)` where the question differs
    from row to row. Two splitmix64 steps, so that keys which differ in one bit give unrelated draws.
    """
    question = np.uint64(key(question_id)) if isinstance(question_id, str) else question_id
    return splitmix64(splitmix64(sample_keys) ^ np.asarray(question, dtype=np.uint64))


def uniforms(sample_keys: np.ndarray, question_id: str | np.ndarray) -> np.ndarray:
    """float64 (N,) in [0, 1): the top 53 bits of `mix`."""
    return (mix(sample_keys, question_id) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def picks(sample_keys: np.ndarray, question_id: str | np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """int64 (N,) in [0, n): one index per sample; n is one number or int (N,), at least 1."""
    if np.any(np.asarray(n) < 1):
        raise ValueError(f"picks for {question_id!r}: nothing to pick from (n = {np.min(n)}); give n >= 1")
    return np.floor(uniforms(sample_keys, question_id) * n).astype(np.int64)


def orders(sample_keys: np.ndarray, question_id: str | np.ndarray, n: int) -> np.ndarray:
    """int64 (N, n): a permutation of 0..n-1 for each sample, all n! equally likely."""
    draws = [mix(mix(sample_keys, question_id), f"order/{i}") for i in range(n)]
    return np.argsort(np.stack(draws, axis=1), axis=1, kind="stable")


def uniform(seed: int, sample_id: str, question_id: str) -> float:
    """One float in [0, 1) for one sample and question."""
    return float(uniforms(np.array([key(seed, sample_id)], dtype=np.uint64), question_id)[0])


def pick(seed: int, sample_id: str, question_id: str, choices: Sequence):
    """One of `choices` (not empty), all equally likely."""
    return choices[
        int(picks(np.array([key(seed, sample_id)], dtype=np.uint64), question_id, len(choices))[0])
    ]


def shuffle(seed: int, sample_id: str, question_id: str, items: Sequence) -> list:
    """A new list with the items in drawn order; the input is left alone."""
    order = orders(np.array([key(seed, sample_id)], dtype=np.uint64), question_id, len(items))[0]
    return [items[i] for i in order]
