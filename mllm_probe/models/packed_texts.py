"""Several texts about one picture behind one copy of its tokens, as a LLaVA reads them one by one.

Each text attends to the picture and to itself, and its positions go on where the picture ends, so a packed text has the
states of one that stands alone. What the tower makes of a picture is taken from a memory of it. Knows no training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mllm_probe.data.pictures import open_rgb
from mllm_probe.errors import ModelError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.caption_loss import IGNORED
from mllm_probe.models.dense_connector import PROJECTOR
from mllm_probe.records.samples import Picture, Sample

PADDING = -1  # in place of the number of a text; 0 is the picture
AT_ONCE = 16  # pictures through the tower
LINEARS = ("linear_1", "linear_2")


@dataclass(frozen=True)
class Text:
    """What a user says behind a picture ("" for nothing), and the answer that is learnt; `ends` with an end of
    sequence, or leaves the turn open."""

    said: str
    answer: str
    ends: bool = True


@dataclass(frozen=True)
class PackedRows:
    """B rows of L tokens: `ids`, `positions`, `labels` (the id to predict at a token from the one before, or IGNORED),
    `owners` (the number of the text, from 1), `image` (whether it is a picture's)."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    owners: Tensor
    image: Tensor

    @property
    def counts(self) -> Tensor:
        """Tokens to be predicted of each text, [B, most texts of a row]."""
        return self.summed((self.labels[:, 1:] != IGNORED).float())

    def summed(self, values: Tensor) -> Tensor:
        """One value for each token but the first, [B, L - 1] -> their sums over each text, [B, most texts of a row]."""
        owners = (self.owners[:, 1:].to(values.device) - 1).clamp_min(0)
        empty = torch.zeros(len(owners), int(self.owners.max()), device=values.device)
        return empty.scatter_add(1, owners, values)

    def mask(self) -> Tensor:
        """[B, 1, L, L]: what each token may attend to, 0 or a large negative number."""
        rows, columns = self.owners[:, :, None], self.owners[:, None, :]
        before = torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool).tril()
        seen = before & ((rows == columns) | (columns == 0))
        return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


class Packer:
    """Rows of ids for one processor. Raises ModelError, SpanError, DataError."""

    def __init__(self, blueprint: Blueprint, example: Picture) -> None:
        self._prompter, self._tokenizer = blueprint.prompter, blueprint.processor.tokenizer
        sample = Sample.of([example], "", {})
        inputs = blueprint.process([sample])
        (layout,) = blueprint.layouts([sample], inputs)
        self._example, self._image = example, set(layout.image)
        self._head = list(layout.head)

    def row(self, texts: Sequence[Text]) -> list[tuple[int, int, int, int]]:
        """(id, position, label, owner) of every token."""
        row = [(one, place, IGNORED, 0) for place, one in enumerate(self._head)]
        for owner, text in enumerate(texts, 1):
            ids, learnt = self._tokens(text)
            labels = [one if own else IGNORED for one, own in zip(ids, learnt, strict=True)]
            places = range(len(self._head), len(self._head) + len(ids))
            row += zip(ids, places, labels, [owner] * len(ids), strict=True)
        return row

    def answer(self, text: Text) -> int:
        """The id of an answer that is one token. Raises ModelError."""
        ids, learnt = self._tokens(text)
        if sum(learnt) != 1:
            raise ModelError(f"the answer '{text.answer}' is {sum(learnt)} tokens for this tokenizer, and must be one")
        return ids[-1]

    def _tokens(self, text: Text) -> tuple[list[int], list[bool]]:
        """Ids behind the picture, and which of them are learnt."""
        prompt = self._prompter.render(Sample.of([self._example], text.said, {}))
        tag = self._prompter.tag
        asked = (tag.text or tag.lead) + prompt.text[prompt.tag_end :]
        written = asked + text.answer + self._tokenizer.eos_token * text.ends
        found = self._tokenizer(written, add_special_tokens=False, return_offsets_mapping=True)
        ids, starts = found["input_ids"], [start for start, _ in found["offset_mapping"]]
        first = ids.index(tag.id) + 1 if tag.text else 0
        return ids[first:], [start >= len(asked) for start in starts[first:]]

    def rows(self, each: Sequence[Sequence[Text]]) -> PackedRows:
        """One row for the texts of each picture, padded on the right."""
        rows = [self.row(texts) for texts in each]
        longest, pad = max(map(len, rows)), (self._tokenizer.pad_token_id, 0, IGNORED, PADDING)
        filled = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        image = torch.zeros(filled.shape[:2], dtype=torch.bool)
        image[:, sorted(self._image)] = True
        ids, positions, labels, owners = filled.unbind(-1)
        return PackedRows(ids, positions, labels, owners, image)


@torch.no_grad()
def tower_states(network: Any, blueprint: Blueprint, pictures: Sequence[Picture], device: str) -> dict[str, Tensor]:
    """{digest of a picture: what the connector reads of it, [T, D] float32 on the CPU}."""
    found: dict[str, Tensor] = {}
    connector = getattr(network.model, PROJECTOR)
    setattr(network.model, PROJECTOR, nn.Identity())
    try:
        for start in range(0, len(pictures), AT_ONCE):
            some = pictures[start : start + AT_ONCE]
            pixels = blueprint.processor.image_processor([open_rgb(one.path) for one in some], return_tensors="pt")
            pixels = pixels["pixel_values"].to(device, network.dtype)
            states = network.get_image_features(pixel_values=pixels).pooler_output
            found |= {one.digest: own.float().cpu() for one, own in zip(some, states, strict=True)}
    finally:
        setattr(network.model, PROJECTOR, connector)
    return found


class StandardisedConnector(nn.Module):
    """The two linear layers of a LLaVA's own connector over channels of mean 0 and deviation 1, in float32."""

    def __init__(self, plain: Any, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        if not all(isinstance(getattr(plain, name, None), nn.Linear) for name in LINEARS):
            raise ModelError(f"a {type(plain).__name__} is no connector of two linear layers; choose a LLaVA")
        self.act = plain.act
        self.mean, self.deviation = nn.Buffer(mean), nn.Buffer(deviation)
        first, second = (getattr(plain, name) for name in LINEARS)
        self.linear_1 = nn.Linear(first.in_features, first.out_features)
        self.linear_2 = nn.Linear(second.in_features, second.out_features)

    def forward(self, states: Tensor) -> Tensor:
        """What the connector reads, [B, T, D] -> tokens [B, T, W]."""
        return self.linear_2(self.act(self.linear_1((states - self.mean) / self.deviation)))

    @torch.no_grad()
    def draw(self, states: Tensor, spread: float, seed: int) -> None:
        """Values by `seed`, the second layer scaled so that tokens have this root mean square over `states`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.linear_1.reset_parameters()
            self.linear_2.reset_parameters()
        self.linear_2.bias.zero_()
        self.linear_2.weight *= spread / self(states).square().mean().sqrt()

    @torch.no_grad()
    def take(self, plain: Any) -> None:
        """The values of a connector of plain states."""
        weight = plain.linear_1.weight.float()
        self.linear_1.weight.copy_(weight * self.deviation)
        self.linear_1.bias.copy_(plain.linear_1.bias.float() + weight @ self.mean)
        self.linear_2.load_state_dict({n: v.float() for n, v in plain.linear_2.state_dict().items()})

    @torch.no_grad()
    def plain(self) -> dict[str, Tensor]:
        """The same function of plain states, under the names of a LLaVA's connector."""
        weight = self.linear_1.weight / self.deviation
        first = {"linear_1.weight": weight, "linear_1.bias": self.linear_1.bias - weight @ self.mean}
        second = {f"linear_2.{name}": value.clone() for name, value in self.linear_2.state_dict().items()}
        return {name: value.detach().cpu() for name, value in (first | second).items()}


def spread_of(states: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation [D] of every channel."""
    rows = torch.cat(list(states.values())).double()
    return rows.mean(0).float(), rows.std(0).clamp_min(1e-6).float()


def text_losses(network: Any, tokens: Tensor, rows: PackedRows, device: str) -> Tensor:
    """Picture tokens [B, T, W] and the rows behind them -> nats summed over what is learnt of each text, [B, most texts
    of a row] float32."""
    logits, wanted = _predicted(network, tokens, rows, device)
    each = cross_entropy(logits, rows.labels[:, 1:].to(device)[wanted], reduction="none")
    return rows.summed(torch.zeros(wanted.shape, device=device).masked_scatter(wanted, each))


def chosen(network: Any, tokens: Tensor, rows: PackedRows, device: str, words: Sequence[int]) -> Tensor:
    """Which of the ids `words` is likeliest in place of each learnt token, row by row: its number, [all of them]."""
    return _predicted(network, tokens, rows, device)[0][:, list(words)].argmax(-1)


def _predicted(network: Any, tokens: Tensor, rows: PackedRows, device: str) -> tuple[Tensor, Tensor]:
    """Logits [all learnt tokens, V], and where they are, [B, L - 1]; none are made for other tokens."""
    wanted = (rows.labels[:, 1:] != IGNORED).to(device)
    states = _states(network, tokens, rows, device)[:, :-1]
    return network.get_output_embeddings()(states[wanted]).float(), wanted


def _states(network: Any, tokens: Tensor, rows: PackedRows, device: str) -> Tensor:
    """Of the last layer, behind the final norm: [B, L, W]."""
    embedded = network.get_input_embeddings()(rows.ids.to(device))
    where = rows.image.to(device)[..., None].expand_as(embedded)
    embedded = embedded.masked_scatter(where, tokens.to(embedded.dtype))
    found = network.model.language_model(
        inputs_embeds=embedded,
        attention_mask=rows.mask().to(device, embedded.dtype),
        position_ids=rows.positions.to(device),
        use_cache=False,
    )
    return found.last_hidden_state


@torch.no_grad()
def put_in(model: nn.Module, parts: Mapping[str, Tensor]) -> None:
    """Give a model what was trained of it: tensors by its own names, and pairs NAME.lora_a [R, in] and NAME.lora_b
    [out, R], whose product is added to the matrix NAME."""
    own = model.state_dict()
    for name, value in parts.items():
        if name.endswith(".lora_a"):
            matrix = name.removesuffix(".lora_a")
            update = parts[f"{matrix}.lora_b"].float() @ value.float()
            own[matrix].copy_(own[matrix].float() + update)
        elif not name.endswith(".lora_b"):
            own[name].copy_(value)
