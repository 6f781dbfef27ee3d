"""Which examples a step reads: every example once an epoch, in an order drawn from the seed. A function of the step."""

from random import Random


def rows_of(step: int, batch: int, total: int, seed: int) -> list[int]:
    """The numbers, below `total`, of the `batch` examples of a step; a batch may reach into the next epoch."""
    found = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, within = divmod(place, total)
        found.append((epoch, within))
    orders = {epoch: _order(epoch, total, seed) for epoch in {epoch for epoch, _ in found}}
    return [orders[epoch][within] for epoch, within in found]


def _order(epoch: int, total: int, seed: int) -> list[int]:
    order = list(range(total))
    Random(f"train/{seed}/{epoch}").shuffle(order)
    return order
