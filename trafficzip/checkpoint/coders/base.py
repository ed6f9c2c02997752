"""What stores the values of tensors: the interface of all coders (FORMAT.md section 8)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import Array, TensorInfo
from trafficzip.wire.cursor import Bytes

Describe = Callable[[], str]  # says what is in a record, for errors


@dataclass(frozen=True, slots=True)
class Job:
    """The tensors that one coder is to store.

    read: gives the tensor at a place of `infos`, of the dtype and shape that its info says; it may be mapped. It is
    read more than once.  steps: per tensor, the index of the step that the allocation chose; None where none is needed.
    exact: per tensor, whether its values are multiples of its step already, as calibration leaves them; empty for none.
    """

    infos: tuple[TensorInfo, ...]
    read: Callable[[int], Array]
    steps: tuple[int | None, ...]
    num_threads: int = 1
    exact: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the tensors of a job are stored.

    params: per tensor what its decoder needs, as JSON.  shared: a record in front of all pieces; None for none.
    encode: gives the record of a piece from the flat slices of its segments, on any thread, in any order.
    """

    params: tuple[Any, ...]
    shared: bytes | None
    encode: Callable[[Piece, Sequence[Array]], bytes]


Decode = Callable[[Piece, Bytes, Sequence[Array], Describe], None]  # fills the flat slices of a piece from its record


class Coder(ABC):
    """One way to store tensors; a frozen dataclass whose fields, with its kind, are its entry in the file's header."""

    kind: ClassVar[str]
    lossless: ClassVar[bool] = False
    has_shared: ClassVar[bool] = False  # whether a record that all pieces need comes in front of them

    @abstractmethod
    def check(self, info: TensorInfo) -> None:
        """Check that such a tensor can be stored.

        Raises:
            ConfigError: it cannot.
        """

    @abstractmethod
    def plan(self, job: Job) -> Encoding:
        """Read the tensors and choose all that pieces share; the same job gives the same bytes, on any machine.

        Raises:
            ConfigError: a value cannot be stored; it says of which tensor.
        """

    @abstractmethod
    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Check what a file says, and give what decodes its pieces, on any thread, in any order.

        Raises:
            CorruptPayloadError: params or shared are not what an encoder writes.
        """

    def to_dict(self) -> dict[str, Any]:
        """Give kind and fields, as JSON."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]
