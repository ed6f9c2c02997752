"""Groups: which elements share a scale, where they lie, and the blocks that kernels and threads walk."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError
from trafficzip.kernels.segments import cut_up

ALIGNMENT = 5  # codes of a group are padded with code 0 to a multiple of this, so no quartic byte spans two groups
_BLOCK_ELEMENTS = 327_680  # a multiple of 5 and of 64; about 1.3 MB of float32, a third-level cache's worth of work


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Disjoint pieces of a flat array, each with one scale, in the order in which a frame holds them.

    sizes: elements of each group, >= 1.
    value_starts: where each group begins in the array of values; by default one after the other.
    residual_starts: the same in the array of residuals; by default as in the values.

    Raises:
        ConfigError: a size below 1, a negative start, or lists of different lengths.
    """

    sizes: tuple[int, ...]
    value_starts: tuple[int, ...]
    residual_starts: tuple[int, ...]
    blocks: NDArray[np.int64] = field(repr=False)  # [blocks, 5]: value, residual start, size, symbol start, group
    first_blocks: NDArray[np.int64] = field(repr=False)  # [groups]: row of each group's first block
    num_elements: int
    num_codes: int  # padding included

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        value_starts: Sequence[int] | None = None,
        residual_starts: Sequence[int] | None = None,
    ) -> None:
        if any(size < 1 for size in sizes):
            raise ConfigError(f"group sizes must be >= 1, got {min(sizes)}")
        ends = np.cumsum([0, *sizes], dtype=np.int64).tolist()
        value_starts = ends[:-1] if value_starts is None else value_starts
        residual_starts = value_starts if residual_starts is None else residual_starts
        if not len(sizes) == len(value_starts) == len(residual_starts):
            raise ConfigError(
                f"groups: {len(sizes)} sizes, {len(value_starts)} value starts, {len(residual_starts)} residual starts"
            )
        if min((*value_starts, *residual_starts), default=0) < 0:
            raise ConfigError("groups: a start is negative")
        rows: list[tuple[int, int, int, int, int]] = []
        first_blocks = []
        symbols = 0
        for group, (size, value, residual) in enumerate(zip(sizes, value_starts, residual_starts, strict=True)):
            first_blocks.append(len(rows))
            for at in range(0, size, _BLOCK_ELEMENTS):
                part = min(_BLOCK_ELEMENTS, size - at)
                rows.append((value + at, residual + at, part, symbols + at // ALIGNMENT, group))
            symbols += -(-size // ALIGNMENT)
        put = object.__setattr__
        put(self, "sizes", tuple(sizes))
        put(self, "value_starts", tuple(value_starts))
        put(self, "residual_starts", tuple(residual_starts))
        put(self, "blocks", np.array(rows, dtype=np.int64).reshape(-1, 5))
        put(self, "first_blocks", np.array(first_blocks, dtype=np.int64))
        put(self, "num_elements", ends[-1])
        put(self, "num_codes", symbols * ALIGNMENT)

    @property
    def num_symbols(self) -> int:
        """Quartic bytes of all groups."""
        return self.num_codes // ALIGNMENT

    def cut(self, length: int) -> NDArray[np.int64]:
        """Give a block table whose rows have at most `length` elements and are groups of their own.

        length: a power of two up to 65536, so that it divides whole blocks.
        Returns: int64 [rows, 5]: value start, residual start, size, 0, row.
        """
        block, number = cut_up(self.blocks[:, 2], length)
        rows, start = self.blocks[block], number * length
        rows[:, :2] += start[:, None]
        rows[:, 2] = np.minimum(rows[:, 2] - start, length)
        rows[:, 3] = 0
        rows[:, 4] = np.arange(len(rows))
        return rows

    def tiles(self, length: int) -> NDArray[np.int64]:
        """Cut every group into tiles for GPU programs, the last one shorter.

        length: elements of a tile; a multiple of 5 where symbol starts matter, so that no quartic byte spans two tiles.
        Returns: int64 [tiles, 7]: value start, residual start, size, symbol start, first element counted through all
        groups, first element counted within the group, group.
        """
        sizes = np.array(self.sizes, np.int64).reshape(-1)
        group, number = cut_up(sizes, length)
        start = number * length
        symbols = -(-sizes // ALIGNMENT)
        columns = [
            np.array(self.value_starts, np.int64)[group] + start,
            np.array(self.residual_starts, np.int64)[group] + start,
            np.minimum(sizes[group] - start, length),
            (np.cumsum(symbols) - symbols)[group] + start // ALIGNMENT,
            (np.cumsum(sizes) - sizes)[group] + start,
            start,
            group,
        ]
        return np.stack(columns, axis=1).astype(np.int64)

    def check_fit(self, values_size: int, residual_size: int | None = None) -> None:
        """Check that every group lies inside arrays of these sizes.

        Raises:
            ConfigError: a group ends beyond its array.
        """
        for name, starts, total in (
            ("values", self.value_starts, values_size),
            ("residual", self.residual_starts, residual_size),
        ):
            if total is None:
                continue
            end = max((start + size for start, size in zip(starts, self.sizes, strict=True)), default=0)
            if end > total:
                raise ConfigError(f"groups end at element {end} of the {name}, which have {total}")
