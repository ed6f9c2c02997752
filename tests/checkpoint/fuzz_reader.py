"""Fuzz the reader with atheris: python -m tests.checkpoint.fuzz_reader CORPUS -max_total_time=60

The first byte of an input chooses how the rest is taken: as a file, or as a record that is put into a sound file with
right checksums, so that what is behind them is reached. Any error but the library's ends it.
"""

import inspect
import io
import sys
from pathlib import Path

import atheris
import numpy as np

from benchmarks.checkpoint.hostile import example
from trafficzip.checkpoint import byte_planes, layout, packed_codes, pieces, reader
from trafficzip.checkpoint.coders import blocks, blockwise, codebook, table, ternary
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.trellis import coder, context_record, record, side, tables
from trafficzip.errors import TrafficzipError
from trafficzip.wire import container, cursor
from trafficzip.wire.container import ContainerReader, ContainerWriter

WATCHED = (
    *(byte_planes, layout, packed_codes, pieces, reader, blocks, blockwise, codebook, table, ternary),
    *(coder, context_record, record, side, tables, container, cursor),
)
DATA, _ = example()
_FILE = ContainerReader(np.frombuffer(DATA, np.uint8))
_RECORDS = [_FILE.record(number).tobytes() for number in range(_FILE.num_records)]


def watch() -> int:
    """Let the fuzzer see the branches of all functions of the watched modules; give how many they are."""
    count = 0
    for module in WATCHED:
        owners = [module, *(found for _, found in inspect.getmembers(module, inspect.isclass))]
        for owner in owners:
            for _, found in inspect.getmembers(owner, inspect.isfunction):
                if found.__module__ == module.__name__:
                    atheris.instrument_func(found)
                    count += 1
    return count


def seeds() -> list[bytes]:
    """Give inputs to start from: the file, and each record."""
    return [b"\xff" + DATA, *(bytes([number]) + content for number, content in enumerate(_RECORDS))]


def one_input(data: bytes) -> None:
    """Read what an input makes."""
    if not data:
        return
    place, content = data[0], data[1:]
    if place < len(_RECORDS):
        sink = io.BytesIO()
        writer = ContainerWriter(sink)
        for number, kept in enumerate(_RECORDS):
            writer.add(content if number == place else kept)
        writer.finish(_FILE.header)
        content = sink.getvalue()
    try:
        with CheckpointFile(content, num_threads=1) as file:
            if sum(info.num_bytes for info in file.infos) < 1 << 24:
                file.read_many()
    except TrafficzipError:
        pass


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds()):
        (folder / f"seed{number}").write_bytes(seed)
    one_input(b"\xff" + DATA)
    assert watch() > 50
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
