"""The blocks of a language model, entered at any of them: those below hand on what they are given.

Knows a transformers model, no prompts. Letters in shapes: R rows, S tokens, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor

from mllm_probe.models.hf import HFModel
from mllm_probe.models.tails.attention import Attend, attending
from mllm_probe.records.sites import Site

Change = Callable[[Tensor], Tensor]  # states [R, S, D] -> the same with some of them changed


class _Top(Exception):
    """Raised behind the last block to leave the model; caught in `Blocks.run` and nowhere else."""


def first_of(value: Any) -> Tensor:
    """Blocks return a tensor, or a tuple that begins with it."""
    return value[0] if isinstance(value, tuple | list) else value


def _like(value: Any, states: Tensor) -> Any:
    return type(value)((states, *value[1:])) if isinstance(value, tuple | list) else states


class Blocks:
    """Of one loaded model, `top` of them; block k returns the states of site lm.k."""

    def __init__(self, model: HFModel) -> None:
        self.top = model.anatomy.blocks["lm"]
        self._model = model
        self._blocks = [model.module(Site("lm", k))[0] for k in range(1, self.top + 1)]
        self._numbers = {id(part): k for k, block in enumerate(self._blocks, 1) for part in block.modules()}
        self._tupled = False

    def run(
        self,
        inputs: Mapping[str, Tensor],
        attend: Attend | None,
        first: int = 1,
        states: Tensor | None = None,
        changes: Mapping[Site, Change] | None = None,
        seen: Callable[[Site, Tensor], None] | None = None,
        sites: Sequence[Site] = (),
    ) -> Tensor:
        """Pass through the blocks from `first` on, which receives `states` [R, S, D] (none: what the model makes of its
        inputs); -> what the last block returns. `changes` are made at their sites, and `seen` is told the states of
        `sites`, changed ones as they are after it. Without `attend` the model attends in its own way."""
        with ExitStack() as stack:
            if attend is not None:
                stack.enter_context(attending(self._model.configs, self._numbers, attend))
            stack.enter_context(self._entered(first, states))
            for site in dict.fromkeys((*(changes or {}), *sites)):
                stack.enter_context(self._at(site, (changes or {}).get(site), seen if site in sites else None))
            found = stack.enter_context(self._left())
            stack.enter_context(suppress(_Top))
            self._model.network.base_model(**self._model.moved(inputs), use_cache=False)
        return found[0]

    @contextmanager
    def _entered(self, first: int, states: Tensor | None) -> Iterator[None]:
        if states is None:
            yield
            return
        below, before = self._blocks[: first - 1], []
        block = self._blocks[first - 1]

        def hand_on(hidden_states: Tensor, *_args: Any, **_more: Any) -> Any:
            return (hidden_states,) if self._tupled else hidden_states

        def receive(_module: Any, args: Any, more: dict[str, Any]) -> Any:
            return ((states, *args[1:]), more) if args else (args, {**more, "hidden_states": states})

        handle = block.register_forward_pre_hook(receive, with_kwargs=True)
        try:
            for one in below:
                before.append(vars(one).get("forward"))
                one.forward = hand_on
            yield
        finally:
            handle.remove()
            for one, forward in zip(below, before, strict=False):
                del one.forward
                if forward is not None:  # accelerate puts its own there
                    one.forward = forward

    @contextmanager
    def _at(self, site: Site, change: Change | None, seen: Callable[[Site, Tensor], None] | None) -> Iterator[None]:
        """Change and tell the states of a site while they pass."""

        def pass_on(states: Tensor) -> Tensor:
            states = states if change is None else change(states)
            if seen is not None:
                seen(site, states)
            return states

        def entering(_module: Any, args: Any, more: dict[str, Any]) -> Any:
            if args:
                return (pass_on(args[0]), *args[1:]), more
            return args, {**more, "hidden_states": pass_on(more["hidden_states"])}

        module, leaves = self._model.module(site)
        if leaves:
            handle = module.register_forward_hook(lambda _m, _a, out: _like(out, pass_on(first_of(out))))
        else:
            handle = module.register_forward_pre_hook(entering, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _left(self) -> Iterator[list[Tensor]]:
        """Leave the model behind its last block."""
        found: list[Tensor] = []

        def leave(_module: Any, _args: Any, out: Any) -> None:
            self._tupled = isinstance(out, tuple)
            found.append(first_of(out))
            raise _Top

        handle = self._blocks[-1].register_forward_hook(leave)
        try:
            yield found
        finally:
            handle.remove()
