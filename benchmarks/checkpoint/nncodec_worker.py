"""Encode and decode one model with NNCodec; runs in an environment of its own, without this package.

python nncodec_worker.py IN.safetensors OUT.safetensors QP LAMBDA_SCALE

Writes the decoded tensors and prints one line of JSON: bytes and seconds, imports not counted. With LAMBDA_SCALE 0
it calls nncodec.nn.encode; above 0 what that calls, with the same settings and rate-distortion optimised levels.
"""

import contextlib
import json
import sys
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from nncodec import nn, nnc
from safetensors.numpy import load_file, save_file

LONG_S = 3


def encode(tensors: dict[str, np.ndarray], qp: int, lambda_scale: float) -> bytes:
    if lambda_scale == 0:
        return bytes(nn.encode(tensors, {"qp": qp, "verbose": False}))
    return bytes(
        nnc.compress(
            tensors,
            qp=qp,
            nonweight_qp=nn.nncargs["nonweight_qp"],
            use_dq=True,
            param_opt=True,
            row_skipping=True,
            lambda_scale=lambda_scale,
            return_bitstream=True,
            verbose=False,
        )
    )


def timed(function, *arguments):
    """Give the result, and median seconds of wall and processor: of three calls, or of one that takes long."""
    wall, processor = [], []
    while len(wall) < 3 and sum(wall) < LONG_S:
        begin = perf_counter(), process_time()
        result = function(*arguments)
        wall.append(perf_counter() - begin[0])
        processor.append(process_time() - begin[1])
    return result, median(wall), median(processor)


def main() -> None:
    source, target, qp, lambda_scale = sys.argv[1:]
    torch.set_num_threads(1)
    tensors = load_file(source)
    with contextlib.redirect_stdout(sys.stderr):
        stream, encode_s, encode_cpu_s = timed(encode, tensors, int(qp), float(lambda_scale))
        decoded, decode_s, decode_cpu_s = timed(lambda: nn.decode(bytearray(stream)))
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in decoded.items()}, target)
    result = {"bytes": len(stream), "encode_s": encode_s, "decode_s": decode_s}
    print(json.dumps({**result, "encode_cpu_s": encode_cpu_s, "decode_cpu_s": decode_cpu_s}))


if __name__ == "__main__":
    main()
