"""Damages records in many ways; a coder refuses them, naming the piece, or decodes them to something."""

import numpy as np
import pytest

from tests.checkpoint.coders.records import bits
from trafficzip.errors import CorruptPayloadError


def outcome(records, damaged):
    """What records decode to, or the error's text."""
    try:
        return [bits(array) for array in records.decoded(damaged)]
    except CorruptPayloadError as error:
        return str(error)


def assert_refused(records, damaged, match="the piece"):
    with pytest.raises(CorruptPayloadError, match=match):
        records.decoded(damaged)


def check_damage(records, *, rounds=300, seed=0):
    """Cut, lengthen and change the one record of a piece; give how many changes were refused."""
    (record,) = records.records
    for end in range(min(len(record), 200)):
        assert_refused(records, [record[:end]])
    for end in range(1, 9):
        assert_refused(records, [record[:-end]])
    for more in (b"\0", b"\1", bytes(40)):
        assert_refused(records, [record + more])
    random = np.random.default_rng(seed)
    refused = 0
    for _ in range(rounds):
        found = outcome(records, [_changed(record, random)])
        assert not isinstance(found, str) or "the piece" in found
        refused += isinstance(found, str)
    return refused


def _changed(record, random):
    data = bytearray(record)
    kind = random.integers(4)
    span = min(len(data), 64) if random.integers(2) else len(data)  # heads are short and matter most
    if kind == 0:
        data[random.integers(span)] ^= 1 << random.integers(8)
    elif kind == 1:
        for at in random.integers(span, size=random.integers(1, 6)):
            data[at] = random.integers(256)
    elif kind == 2:
        at = random.integers(span)
        del data[at : at + random.integers(1, 8)]
    else:
        at = random.integers(span)
        data[at:at] = random.integers(0, 256, random.integers(1, 8)).astype(np.uint8).tobytes()
    return bytes(data)
