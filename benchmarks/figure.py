"""A measured figure and what it must be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure and what it must be."""

    what: str
    value: float
    bar: float
    at_most: bool = True

    @property
    def holds(self) -> bool:
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'ok  ' if self.holds else 'MISS'}  {self.what}: {self.value:.4g}  (bar {sign} {self.bar:g})"
