import csv
import io

import pytest

from tests.report.cluster_examples import accuracy, exchange, row, training
from trafficzip.errors import ConfigError
from trafficzip.report.cluster_rows import read_rows


def test_the_last_row_of_a_key_wins():
    rows = read_rows([training("dense", 2), training("default", 1), training("dense", 3)])
    assert [(r.method, r.step_s, r.number) for r in rows] == [("dense", 3, 3), ("default", 1, 2)]


@pytest.mark.parametrize(
    "change",
    [
        *({"rate": "100mbit"}, {"hosts": "2"}, {"ranks": "8"}, {"delay_ms": "5"}, {"method": "fp16"}),
        *({"network": "ResNet-56"}, {"batch": "64"}, {"backend": "nccl"}, {"loss": "0.01"}, {"mtu": "9000"}),
    ],
)
def test_rows_of_another_key_stay(change):
    assert len(read_rows([training("dense", 2), training("dense", 3) | change])) == 2


def test_what_is_counted_is_no_part_of_the_key():
    (kept,) = read_rows([exchange("dense", 2, commit="a", wire_bytes="1"), exchange("dense", 3, commit="b")])
    assert kept.step_s == 3


def test_a_later_failure_replaces_figures_and_the_other_way_round():
    failed = row("exchange", "dense", megabytes="1", error="broken")
    (kept,) = read_rows([exchange("dense", 2), failed])
    assert (kept.step_s, kept.error) == (None, "broken")
    (kept,) = read_rows([failed, exchange("dense", 2)])
    assert (kept.step_s, kept.error) == (2, "")


def test_seeds_stand_beside_each_other():
    assert len(read_rows([accuracy("dense", 80), accuracy("dense", 81, seed="1"), accuracy("dense", 82)])) == 2


def test_empty_is_not_measured_and_not_zero():
    (kept,) = read_rows([training("dense", "", spread="", wire_bytes="", rounds="")])
    assert (kept.step_s, kept.spread, kept.wire_bytes, kept.rounds, kept.codec_s) == (None,) * 5


def test_a_run_that_diverged_is_read():
    assert read_rows([accuracy("dense", 10, final_loss="nan", curve="[[1, 10, NaN]]")])[0].accuracy == 10


def test_short_lines_of_a_file_are_read():
    text = "workload,method,hosts,ranks,rate,step_s,error\ntraining,dense,2,2,none,0.5\n"
    (kept,) = read_rows(list(csv.DictReader(io.StringIO(text))))
    assert (kept.rate_bits_per_s, kept.step_s, kept.error) == (None, 0.5, "")


@pytest.mark.parametrize(
    ("column", "text"),
    [
        *(("step_s", "fast"), ("step_s", "0"), ("step_s", "-1"), ("step_s", "nan"), ("step_s", "inf")),
        *(("codec_s", "-0.1"), ("wire_bytes", "1e3 B"), ("spread", "x"), ("hosts", ""), ("hosts", "0")),
        *(("ranks", "2.5"), ("rate", "fast"), ("rate", ""), ("rate", "0mbit"), ("loss", "2"), ("delay_ms", "-1")),
        *(("accuracy", "101"), ("seed", "a"), ("workload", "sleep"), ("method", "")),
        *(("identical", "perhaps"), ("relayed", "1"), ("payload_bytes", "-1"), ("momentum", "x"), ("peak_lr", "nan")),
        *(("curve", "[["), ("curve", "7"), ("curve", "[[1, 2, 3], [1, 2, 3]]"), ("curve", '[["a", 2, 3]]')),
        *(
            ("curve", "[[1, 200, 3]]"),
            ("curve", "[[2, 5, 1], [1, 6, 1]]"),
            ("curve", "[[1, NaN, 3]]"),
            ("curve", "[[]]"),
        ),
    ],
)
def test_a_malformed_value_names_row_and_column(column, text):
    with pytest.raises(ConfigError, match=rf"^row 2, column {column}: expected .*, got '"):
        read_rows([training("dense", 1), training("dense", 1) | {column: text}])


def test_an_exchange_without_a_size_is_refused_unless_it_failed():
    with pytest.raises(ConfigError, match="row 1, column megabytes"):
        read_rows([exchange("dense", 1, megabytes="")])
    assert read_rows([row("exchange", "dense", error="no such backend")])
