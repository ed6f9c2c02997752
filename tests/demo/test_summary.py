from trafficzip.demo.summary import footnotes, make_rows, sent_bytes


def result(**changes):
    values = {
        "world_size": 2,
        "num_elements": 1000,
        "accuracy": 0.9,
        "losses": [2.0, 1.0],
        "step_s": [0.5, 0.1],
        "wire_bytes": [8100, 16200],
        "counted_bytes": None,
        "expected_bytes": 16000,
        "codec_s": None,
        "exchange_s": None,
        "identical": True,
        "digests": ["a", "a"],
    }
    return values | changes


def compressed(**changes):
    own = {"wire_bytes": [500, 900], "counted_bytes": 400, "expected_bytes": 400, "codec_s": 0.1, "exchange_s": 0.2}
    return result(**(own | changes))


def warnings(**results):
    return [note for note in footnotes(results) if note.startswith("WARNING")]


def test_ratio_and_bits_come_from_the_interface():
    dense, small = make_rows({"dense": result(), "compressed": compressed()})
    assert (dense.ratio, small.ratio) == (1.0, 18.0)
    assert dense.bits_per_element == 8 * 16200 / (1000 * 2 * 2)
    assert small.wire_bytes == 900


def test_uncounted_interface_is_said():
    results = {"dense": result(wire_bytes=None), "compressed": compressed(wire_bytes=None)}
    dense, small = make_rows(results)
    assert (dense.wire_bytes, dense.bits_per_element) == (None, 32)
    assert small.ratio == 40
    assert sent_bytes(results["dense"]) == [8000, 16000]
    assert any("n/a" in note for note in footnotes(results))
    assert warnings(**results) == []


def test_countings_that_disagree_are_said():
    assert warnings(dense=result(), compressed=compressed()) == []
    less, consequence = warnings(dense=result(), compressed=compressed(wire_bytes=[100, 399]))
    assert "counted 399 B, trafficzip sent 400 B" in less
    assert "ratio" in consequence
    more, _ = warnings(dense=result(wire_bytes=[1, 10**6]), compressed=compressed())
    assert "ring all-reduce" in more


def test_ratio_does_not_use_other_programs_traffic():
    dense, small = make_rows({"dense": result(wire_bytes=[1, 10**6]), "compressed": compressed()})
    assert dense.wire_bytes == 10**6
    assert dense.bits_per_element == 32
    assert small.ratio == 40


def test_ranks_that_differ_are_said():
    (note,) = warnings(dense=result(), compressed=compressed(identical=False, digests=["a" * 64, "b" * 64]))
    assert "parameters differ: aaaaaaaaaaaa, bbbbbbbbbbbb" in note
