"""Files written by every release so far are read, and written again byte for byte by the version that made them."""

from pathlib import Path

import pytest

import trafficzip
from tests.golden.checkpoint_cases import CASES, FOLDER, decoded_hash, write_case
from trafficzip.checkpoint.coders.table import CODERS
from trafficzip.checkpoint.layout import VERSION

DECODED = {  # sha256 of what each file holds
    "v1_trellis": "3e1e815c4fd5486b8cd9ec120ce961cf130f5746737352fd7b3f020e76488c36",
    "v1_trellis_wide": "f38e6b8efd3e554dec98beb56dc72e03fdb2e99118b6715d0b262bb0797c753d",
    "v1_trellis_context": "c6ae25adff920a14713b90db0b20d2c2ffc912b5eca8342f5817feb114b70fbd",
    "v1_uniform": "f3d6038b58b6d424421dd6973af9b3cd0f5c0333aa87edbc1251b9c37284cd88",
    "v1_transposed": "6848c38d8705709ccfddc23f0fa608bda2d50afc197d06d537c80fa5e0120b59",
    "v1_planes": "a94ece9ea229213a8fcfa843a058c4982a6c06d7fe9318071a96ddc109a89794",
    "v1_cast": "4cb91315c3e304f0fa5a16f95846e5d71787efa22441f97cd3143e57fe1e0464",
    "v1_blockwise": "7c23a1a15564d274ef9fafd7b1c68e37532d80cb8042bc68a8e68b22878a8554",
    "v1_ternary": "1419e5566eaf065f33b26e58fbfabf88ea39f8b41b39e6089884199873ef0300",
    "v1_codebook": "f3354c853180fe0f603e814afa02192c802ee915893234329cbc32479bd3254d",
    "v1_huffman": "350cddf1849c60e5709ac4d12e6fd235f75bb7ae7e5318e4912b32916bed64a4",
    "v1_delta": "1bfc9fde94624f4b1373118f8e26a888558b257b8ad0670b21945bf1d3f0e75b",
}
FORMAT = (Path(trafficzip.__file__).parent / "wire" / "FORMAT.md").read_text()
FILES = sorted(FOLDER.glob("v*.tzip"))


def test_every_case_has_a_file_of_this_version():
    assert {f"v{VERSION}_{name}" for name in CASES} <= {path.stem for path in FILES}
    assert set(DECODED) == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    data = path.read_bytes()
    assert decoded_hash(data) == DECODED[path.stem]
    version, _, name = path.stem.partition("_")
    if version == f"v{VERSION}":
        assert write_case(name) == data


def test_every_kind_of_coder_is_described():
    for kind in (*CODERS, "delta"):
        assert f"`{kind}`" in FORMAT, kind
        assert any(kind in name for name in (*CASES, "general", "trellis"))
