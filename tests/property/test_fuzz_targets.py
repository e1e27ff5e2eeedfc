"""What the fuzzer starts from, and what it found: every input is read, or refused with the module's own error."""

import random

import pytest
from fuzz.targets import TARGETS, corpus


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_was_found_once(name):
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for data in (*seeds, *(path.read_bytes() for path in corpus(name)), b"", b"\0", b"\1"):
        target.run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_with_small_damages(name):
    """The same damages each time, for where the fuzzer itself is not to be had."""
    target, chance = TARGETS[name], random.Random(1)
    seeds = list(target.seeds())
    for _ in range(100):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice((0, 1, 1, 4))] = chance.choice((b"", b"\xff", b"\0\0\0\x80", *target.words))
        target.run(bytes(data))
