"""`features=single`: the layers as they are, one by one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Single:
    """The layers as they are, one by one."""

    name: str = "single"

    def arms(self, blocks: int, final: int | None) -> None:
        """There is no integration."""
