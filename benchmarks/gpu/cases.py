"""What is measured of ours: each stage of a bucket's way through an exchange, on sets of buffers that take turns."""

from dataclasses import dataclass, field

import torch

from benchmarks.gpu.timing import Call, Clock
from benchmarks.gpu.workload import WORLD_SIZE, Messages, Workload, ternary
from trafficzip.codecs import Codec, Rans, ZeroRun
from trafficzip.gpu import GpuCodec, Received, VariableCodec

LAST: dict[str, Codec | None] = {"quartic": None, "zero_run": ZeroRun(), "rans": Rans(chunk_symbols=8192)}
MULTIPLIERS = (1.0, 1.75)


@dataclass(frozen=True, slots=True)
class Case:
    """Something to be timed.

    num_bytes: that it cannot but read and write, as the bars count them; 0 where nobody has counted.
    kernel_bytes: the same by kernel, where it is clear.
    waits: whether the host must wait for the device in a call.
    output_bytes: of what it makes, if that is a message.
    """

    operation: str
    method: str
    call: Call = field(repr=False)
    sets: int
    num_bytes: int = 0
    kernel_bytes: dict[str, int] = field(default_factory=dict, repr=False)
    waits: bool = False
    multiplier: float = 1.0
    output_bytes: int | None = None


def encode_cases(work: Workload, clock: Clock) -> list[Case]:
    """Give the codes alone, whole messages, and messages made and read; residuals are updated in place."""
    codec = GpuCodec(work.pushed(ternary()), work.device)
    elements, message_bytes = work.num_elements, codec.layout.num_bytes
    sets = clock.num_sets(8 * elements)
    values, residuals = work.buffers(codec, sets)

    def quantize(k: int) -> torch.Tensor:
        return codec.quantize(values[k], residuals[k], residuals[k]).data

    def encode(k: int) -> torch.Tensor:
        return codec.pack(codec.quantize(values[k], residuals[k], residuals[k]))

    def encode_decode(k: int) -> torch.Tensor:
        message = encode(k)
        codec.decode(codec.unpack(message), values[k])  # the mean replaces the gradient, as in DDP
        return message

    by_kernel = {"_group_peaks": 8 * elements, "_quantize": 12 * elements + message_bytes, "crc_kernel": message_bytes}
    size = 20 * elements  # read twice, residual written: as the bar counts
    return [
        Case("quantize", "quartic", quantize, sets, size, by_kernel),
        Case("encode", "quartic", encode, sets, size, by_kernel, output_bytes=message_bytes),
        # Last, as it changes the values.
        Case("encode_decode", "quartic", encode_decode, sets, size + message_bytes + 4 * elements),
    ]


def decode_cases(work: Workload, clock: Clock) -> list[Case]:
    """Give reading what 8 owners send, and the sum of what 8 ranks send to everybody, judged or judged before."""
    return [*_decode(work, clock, work.pushed(ternary()), 1), *_decode(work, clock, work.gathered(ternary()), 8)]


def _decode(work: Workload, clock: Clock, messages: Messages, copies: int) -> list[Case]:
    codec = GpuCodec(messages, work.device)
    elements, read = work.num_elements, copies * codec.layout.num_bytes
    sets = clock.num_sets(4 * elements + read)
    message = codec.pack(codec.quantize(work.gradients(0)))
    data = [message.repeat(copies) for _ in range(sets)]
    outs = [torch.empty(elements, device=work.device) for _ in range(sets)]
    judged = [codec.unpack(one, copies=copies) for one in data]
    assert judged[0].is_finite()

    def accumulate(k: int) -> torch.Tensor:
        codec.decode(judged[k], outs[k], divisor=copies)
        return outs[k]

    def decode(k: int) -> Received:
        received = codec.unpack(data[k], copies=copies)
        codec.decode(received, outs[k], divisor=copies)
        return received

    size = read + 4 * elements
    by_kernel = {"crc_kernel": read, "_accumulate_quartic": size}
    name = "decode" if copies == 1 else f"sum_{copies}"
    return [
        Case(f"{name}_judged_before", "quartic", accumulate, sets, size, by_kernel),
        Case(name, "quartic", decode, sets, size, by_kernel),
    ]


def owner_case(work: Workload, clock: Clock) -> Case:
    """Give an owner's step: decode 8 ranks' messages of its shard, average, and encode the mean."""
    push, codec = GpuCodec(work.pushed(ternary()), work.device), GpuCodec(work.owned(ternary()), work.device)
    size, elements = codec.layout.num_bytes, work.shards[0].num_elements
    sets = clock.num_sets(WORLD_SIZE * size + 8 * elements)
    message = push.pack(push.quantize(work.gradients(0)))[:size]
    data = [message.repeat(WORLD_SIZE) for _ in range(sets)]
    residuals, lost = ([torch.zeros(elements, device=work.device) for _ in range(sets)] for _ in range(2))

    def step(k: int) -> torch.Tensor:
        received = codec.unpack(data[k], copies=WORLD_SIZE)
        return codec.pack(codec.quantize_mean(received, residuals[k], lost[k]))

    # The residual is read, the mean written, read, and what is lost of it written.
    by_kernel = {"_accumulate_quartic": WORLD_SIZE * size + 8 * elements, "_quantize": 8 * elements + size}
    return Case("owner_step", "quartic", step, sets, WORLD_SIZE * size + 16 * elements, by_kernel, output_bytes=size)


def entropy_cases(work: Workload, clock: Clock, *, multiplier: float) -> list[Case]:
    """Give whole messages with zero runs and rANS, and without for comparison, all as plain calls.

    What is lost goes to a third tensor, so that every call compresses the same codes.
    """
    cases = []
    for name, last in LAST.items():
        codec = GpuCodec(work.pushed(ternary(multiplier, last)), work.device)
        sets = clock.num_sets(8 * work.num_elements)
        values, residuals = work.buffers(codec, sets)
        pair = _entropy_pair(codec, VariableCodec(codec) if last else None, values, residuals)
        (encode, size), decode = pair
        common = {"waits": True, "multiplier": multiplier, "output_bytes": size}
        cases += [
            Case("encode_variable", name, encode, sets, 20 * work.num_elements, **common),
            Case("decode_variable", name, decode, sets, 4 * work.num_elements + size, **common),
        ]
    return cases


def _entropy_pair(
    codec: GpuCodec, variable: VariableCodec | None, values: list[torch.Tensor], residuals: list[torch.Tensor]
) -> tuple[tuple[Call, int], Call]:
    lost, out = torch.empty_like(values[0]), torch.empty_like(values[0])

    def encode(k: int) -> tuple[torch.Tensor, list[int]]:
        coded = codec.quantize(values[k], residuals[k], lost)
        return variable.pack(coded) if variable else (codec.pack(coded), list(codec.layout.message_sizes))

    messages = [encode(k) for k in range(len(values))]

    def decode(k: int) -> torch.Tensor:
        data, sizes = messages[k]
        codec.decode(variable.unpack(data, [sizes]) if variable else codec.unpack(data), out)
        return out

    return (encode, messages[0][0].numel()), decode
