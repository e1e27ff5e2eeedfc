"""Chunks handed from thread to thread: all of them, in order, and what goes wrong on the way."""

import hashlib
from itertools import chain, repeat

import pytest

from oci_binpkg.archive.tar_input import WORTH_A_THREAD, Ahead, HashBeside
from oci_binpkg.errors import NetworkError

CHUNK = WORTH_A_THREAD // 4


def numbered(count):
    return [number.to_bytes(2, "big") * (CHUNK // 2) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 40])
def test_chunks_come_whole_and_in_order(count):
    chunks = numbered(count)
    coming = iter(chunks)
    ahead = Ahead(lambda: next(coming, b""))
    assert list(iter(ahead.next, b"")) == chunks
    assert ahead.next() == b""
    ahead.close()


@pytest.mark.parametrize("count", [1, 12])
def test_what_goes_wrong_is_raised_after_what_came_before_it(count):
    def failing():
        yield from numbered(count)
        raise NetworkError("broken off")

    coming = failing()
    ahead = Ahead(lambda: next(coming))
    assert [ahead.next() for _ in range(count)] == numbered(count)
    with pytest.raises(NetworkError, match="broken off"):
        ahead.next()
    ahead.close()


def test_who_stops_early_leaves_no_thread_that_reads_on():
    taken = []
    coming = chain(numbered(10), repeat(bytes(CHUNK)))

    def take():
        taken.append(1)
        return next(coming)

    ahead = Ahead(take)
    for _ in range(6):
        ahead.next()
    ahead.close()
    count = len(taken)
    assert count < 20
    ahead.close()
    assert len(taken) == count


@pytest.mark.parametrize("count", [0, 3, 30])
def test_the_hash_is_that_of_all_chunks(count):
    beside = HashBeside("sha256")
    for chunk in numbered(count):
        beside.update(chunk)
    assert beside.digest.hex == hashlib.sha256(b"".join(numbered(count))).hexdigest()
    assert beside.digest == beside.digest
    beside.close()
