"""The arithmetic of PowerSGD for one bucket, as torch's communication hook does it, without collectives.

Source: PowerSGD (Vogels, Karimireddy, Jaggi 2019), algorithm 1 with warm start and error feedback.
"""

from collections import defaultdict
from collections.abc import Callable
from math import prod

import torch

from benchmarks.gpu.workload import Workload

RANK = 4
_EPSILON = 1e-8
Orthogonalize = Callable[[torch.Tensor], None]


def qr(matrices: torch.Tensor) -> None:
    """Orthogonalize the columns of each matrix in place with torch.linalg.qr; [count, rows, rank]."""
    matrices.copy_(torch.linalg.qr(matrices).Q)


def gram_schmidt(matrices: torch.Tensor) -> None:
    """Orthogonalize the columns of each matrix in place, one after the other; [count, rows, rank]."""
    for k in range(matrices.shape[2]):
        column = matrices[:, :, k : k + 1]
        column /= torch.linalg.vector_norm(column, dim=1, keepdim=True) + _EPSILON
        rest = matrices[:, :, k + 1 :]
        rest -= column * (column.transpose(1, 2) @ rest)


class PowerSgd:
    """Factors of a bucket's matrices, those of one shape side by side; small tensors are left alone."""

    def __init__(self, work: Workload, orthogonalize: Orthogonalize) -> None:
        self._orthogonalize = orthogonalize
        self._starts: dict[tuple[int, int], list[int]] = defaultdict(list)
        for name, shape in work.large.items():
            self._starts[shape[0], prod(shape[1:])].append(work.starts[name])
        generator = torch.Generator(work.device).manual_seed(0)

        def factors(count: int, rows: int, columns: int) -> torch.Tensor:
            rank = min(RANK, rows, columns)
            return torch.randn((count, rows, rank), generator=generator, device=work.device)

        shapes = {shape: len(starts) for shape, starts in self._starts.items()}
        self._ps = {(n, m): factors(count, n, m) for (n, m), count in shapes.items()}
        self._qs = {(n, m): factors(count, m, n) for (n, m), count in shapes.items()}

    def __call__(self, values: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """Replace the values by their approximation, and the error by what it lacks; gives the values."""
        values.add_(error)
        error.copy_(values)
        for shape, starts in self._starts.items():
            matrices = [values[start : start + prod(shape)].view(shape) for start in starts]
            p, q = self._ps[shape], self._qs[shape]
            for k, matrix in enumerate(matrices):
                torch.mm(matrix, q[k], out=p[k])
            self._orthogonalize(p)
            for k, matrix in enumerate(matrices):
                torch.mm(matrix.t(), p[k], out=q[k])
            for k, matrix in enumerate(matrices):
                torch.mm(p[k], q[k].t(), out=matrix)
        return error.sub_(values)
