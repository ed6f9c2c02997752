from rich.console import Console

from trafficzip.report.table import Row, format_bytes, traffic_table


def row(**changes):
    values = {
        "name": "compressed",
        "accuracy": 0.98333,
        "wire_bytes": 5_106_614,
        "counted_bytes": 4_574_686,
        "ratio": 100.64,
        "bits_per_element": 0.32,
        "codec_s": 12.34,
        "exchange_s": 123.45,
        "step_s": 0.0123,
        "identical": True,
    }
    return Row(**(values | changes))


def render(*rows):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(traffic_table(rows, title="a title"))
    return capture.get()


def test_every_number_fits_in_80_columns():
    text = render(row())
    assert "…" not in text
    assert text.splitlines()[-1].split() == [
        *("compressed", "98.33", "5.11", "MB", "4.57", "MB", "100.6x", "0.320", "12.34", "123.45", "12.3", "yes")
    ]


def test_what_was_not_measured_is_not_zero():
    text = render(row(wire_bytes=None, counted_bytes=None, ratio=None, codec_s=None, exchange_s=None))
    assert text.count("n/a") == 2
    assert text.splitlines()[-1].count("–") == 3


def test_different_ranks_say_no():
    assert render(row(identical=False)).splitlines()[-1].endswith("NO")


def test_bytes_have_three_digits():
    sizes = [0, 999, 1000, 9_994, 99_949, 999_499, 999_500, 10**9, 2 * 10**16]
    assert [format_bytes(size) for size in sizes] == [
        *("0 B", "999 B", "1.00 kB", "9.99 kB", "99.9 kB", "999 kB", "1.00 MB", "1.00 GB", "20000 TB")
    ]
