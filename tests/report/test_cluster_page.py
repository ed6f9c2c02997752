import base64
import re
from html.parser import HTMLParser

import pytest

from tests.report.cluster_examples import SETTING, accuracy, exchange, row, training
from trafficzip.errors import ConfigError
from trafficzip.report import cluster_page
from trafficzip.report.cluster_page import write_report

PNG = b"\x89PNG\r\n\x1a\n"
EVERYTHING = [
    *(training(m, s, rate=r) for r, x in (("10mbit", 9), ("1gbit", 1)) for m, s in (("dense", x), ("default", 0.5))),
    *(exchange(m, s, megabytes=size) for m, s in (("dense", 2), ("fp16", 1), ("auto", 0.5)) for size in ("1", "4")),
    *(accuracy(m, p, seed=seed) for m, p in (("dense", 85), ("default", 84.8)) for seed in ("0", "1")),
    row("training", "auto", **SETTING, error="NCCL: no GPU"),
]


class Page(HTMLParser):
    """Elements with their attributes, and the text of each table cell, row by row."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.best, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")
            if "best" in (dict(attrs).get("class") or "").split():
                self.best.append((self.rows[-1][0], len(self.rows[-1]) - 1))
        if tag == "small" and self.inside:
            self.rows[-1][-1] += " | "

    def handle_endtag(self, tag):
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def write(rows, folder):
    paths = write_report(rows, folder)
    return Page((folder / "index.html").read_text()), paths


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page, paths = write(EVERYTHING, folder)
    return page, paths, folder


def test_the_page_comes_first_and_no_half_file_stays(everything):
    _, paths, folder = everything
    assert paths[0] == folder / "index.html"
    assert sorted(paths) == sorted(folder.iterdir())
    assert len(paths) == 7
    assert all(path.read_bytes().startswith(PNG) for path in paths[1:])
    assert all(re.fullmatch(r"[a-z0-9-]+\.png", path.name) for path in paths[1:])


def test_the_page_needs_no_other_file_and_no_network(everything):
    page, paths, folder = everything
    links = [value for _, attrs in page.elements for name, value in attrs.items() if name in ("src", "href", "srcset")]
    images = [link for link in links if not link.startswith("#")]
    assert [base64.b64decode(image.removeprefix("data:image/png;base64,")) for image in images] == [
        path.read_bytes() for path in paths[1:]
    ]
    text = (folder / "index.html").read_text()
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert "default-src 'none'" in text


def test_the_table_says_speed_up_bytes_and_accuracy(everything):
    page, *_ = everything
    rows = [row for row in page.rows if row and row[0] == "trafficzip default"]
    assert rows[0] == [
        *("trafficzip default", "18.00 | 500 ms", "2.00 | 500 ms", "1.00", "1.0", "84.80 | 84.80 to 84.80", "−0.20"),
        "2",
    ]
    assert ("trafficzip default", 1) in page.best
    assert ("dense float32", 5) in page.best
    failed = next(row for row in page.rows if row and row[0] == "trafficzip auto")
    assert failed[1] == "failed | see below"


def test_exchange_is_compared_with_dense_and_float16(everything):
    page, *_ = everything
    assert ["trafficzip auto", "500", "4.00", "2.00", "500", "4.00", "2.00"] in page.rows


def test_what_could_not_run_stands_with_its_reason(everything):
    page, *_ = everything
    assert page.rows[-1] == [
        *("trafficzip auto", "training, ResNet-20", "4 hosts, 4 ranks, 0 ms delay, cluster, gloo", "10 Mbit/s"),
        "NCCL: no GPU",
    ]


@pytest.mark.parametrize(
    "rows",
    {
        "exchange only": [exchange("dense", 1)],
        "accuracy only": [accuracy("dense", 85), accuracy("default", 84, curve="")],
        "one rate, no dense": [training("default", 1)],
        "no times": [training("dense", "", wire_bytes=""), exchange("dense", "")],
        "failures only": [row("exchange", "auto", error="no", rate=""), row("training", "auto", error="no")],
        "no bytes, no split": [
            training("dense", 1, wire_bytes="", delay_ms="", mtu=""),
            training("a", 1, rate="1gbit"),
        ],
        "all parts": [training("dense", 1, compute_s="0.2", codec_s="0.3", exchange_s="0.5", wire_bytes="0")],
        "only some rates": [training("dense", 1, rate="10mbit"), training("a", 1, rate="1gbit"), accuracy("a", 3)],
        "accuracy without curves": [training("dense", 1), accuracy("dense", 85, curve="")],
        "curve without steps": [training("dense", 1), accuracy("dense", 85, curve="[[0, 10, 2]]", wire_bytes="0")],
        "fits that go below zero": [
            *(training("dense", s, rate=r) for r, s in (("10mbit", 100), ("1gbit", 0.001))),
            *(training("auto", s, rate=r) for r, s in (("10mbit", 0.001), ("1gbit", 100))),
        ],
        "rates that look alike": [
            *(training("dense", 1, rate=r) for r in ("10mbit", "10.0001mbit")),
            *(accuracy("dense", p) for p in (80, 81)),
        ],
        "one size, many rates": [exchange("dense", 1, rate=f"{n}mbit") for n in range(1, 7)],
    }.items(),
    ids=lambda item: item[0],
)
def test_missing_parts_are_left_out(rows, tmp_path):
    page, paths = write(rows[1], tmp_path)
    assert paths[0].name == "index.html"
    assert not any("nan" in cell or "None" in cell for row in page.rows for cell in row)


def test_parts_not_measured_say_so(tmp_path):
    write([training("dense", 1), training("default", 0.5)], tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert "No column has a best: accuracy was not measured" in text
    assert "Not measured: a fit needs step times on shaped links of at least two rates." in text
    assert "Not measured: exchange, accuracy." in text
    assert Page(text).best == []


def test_bytes_that_differ_between_links_show_their_range(tmp_path):
    rows = [training("auto", 1, rate=r, wire_bytes=b) for r, b in (("10mbit", "100"), ("1gbit", "900"))]
    page, _ = write([*rows, training("dense", 1)], tmp_path)
    assert next(row for row in page.rows if row[:1] == ["trafficzip auto"])[3] == "0.500 | 0.100 to 0.900"


def test_hostile_text_is_shown_and_not_obeyed(tmp_path):
    bad = "</title><script>alert(1)</script>\"'><img src=x onerror=y> $\\frac{$ {{ 7 * 7 }} _\x07"
    text = {"command": bad, "cpu": bad, "network": bad, "data": bad, "mode": bad, "backend": bad}
    rows = [
        change | {"method": method} for method in ("dense", bad, "$\\frac{$", "_hidden") for change in _all_kinds(text)
    ]
    page, paths = write([*rows, row("training", bad, **text, error=bad)], tmp_path)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object"}
    assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in page.elements if tag == "img")
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert any(bad.replace("\x07", "")[:60] in cell for row in page.rows for cell in row)
    assert {path.parent for path in paths} == {tmp_path}
    assert all(re.fullmatch(r"[a-z0-9-]+\.(png|html)", path.name) for path in paths)


def _all_kinds(text):
    curve = "[[10, 50, 1]]"
    return (
        *(training("dense", s, rate=r) | text for r, s in (("10mbit", 2), ("1gbit", 1))),
        exchange("dense", 1) | text,
        accuracy("dense", 50, curve=curve) | text,
    )


def test_a_malformed_number_writes_nothing(tmp_path):
    with pytest.raises(ConfigError, match="row 2, column step_s: expected a finite number >= 0, got 'quick'"):
        write_report([training("dense", 1), training("default", "quick")], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="no rows"):
        write_report([], tmp_path)


def test_a_write_that_fails_leaves_the_old_page(tmp_path, monkeypatch):
    write([exchange("dense", 1)], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(cluster_page.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write([exchange("dense", 2)], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_equal_rows_give_equal_files(tmp_path):
    first = [path.read_bytes() for path in write_report([exchange("dense", 1)], tmp_path / "a")]
    assert [path.read_bytes() for path in write_report([exchange("dense", 1)], tmp_path / "b")] == first
