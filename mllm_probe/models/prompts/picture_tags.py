"""How the place of a picture in a prompt is marked for a processor. Asked of the processor, not of its name.

Most expand a tag in the text into the picture's tokens, and the tag need not be that token (Gemma 3 writes
<start_of_image> and gets many <image_soft_token>). Some take no tag and put the picture before the text themselves
(BLIP-2, Kosmos-2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mllm_probe.errors import ModelError, SpanError
from mllm_probe.models.loading.reasons import MENDING, briefly

PICTURE = Image.new("RGB", (64, 48), (200, 120, 40))
WORDS = "example words"
POSITION_MASK = "image_embeds_position_mask"  # Kosmos-2's, for the ids of its picture tokens are those of words, too


@dataclass(frozen=True)
class Tag:
    """`text` stands for a picture in a prompt and `id` for it among the tokens; "" and None where the processor takes
    none, and then `lead` is what it writes between the picture and the text. `image` is the token that pictures are
    expanded to, None where only the processor's mask tells them."""

    text: str
    id: int | None
    image: int | None
    lead: str = ""


def find_tag(processor: Any, image: int | None) -> Tag:
    """Raises ModelError where a picture leaves no token, SpanError where the text is not found behind it."""
    tokenizer = processor.tokenizer
    named = str(getattr(processor, "image_token", None) or tokenizer.convert_ids_to_tokens(image or 0))
    bare, why = _tokens(processor, WORDS, image)
    tagged = 0
    if tokenizer.convert_tokens_to_ids(named) not in (None, tokenizer.unk_token_id):
        tagged, why = _tokens(processor, f"{named}\n{WORDS}", image)
    if tagged and (not bare or tagged == bare):
        return Tag(named, tokenizer.convert_tokens_to_ids(named), image)
    if bare:
        return Tag("", None, image, _lead(processor))
    if why:
        raise ModelError(
            f"{type(processor).__name__} cannot process a picture at {named}: {why}; {MENDING['processor']}"
        )
    raise ModelError(
        f"{type(processor).__name__} writes no {tokenizer.convert_ids_to_tokens(image or 0)} (token {image}, the "
        f"image token of config.json) for a picture at {named}; the processor is another model's"
    )


def pictured(inputs: Mapping[str, Any], image: int | None) -> np.ndarray:
    """Which tokens of processed prompts stand for pictures: [B, L] bool."""
    return np.asarray(picture_places(inputs, image) & inputs["attention_mask"].bool())


def picture_places(inputs: Mapping[str, Any], image: int | None) -> Any:
    """The same of any prompts, packed ones, too, as a tensor; padding may not hold the image token."""
    mask = inputs.get(POSITION_MASK)
    return inputs["input_ids"] == image if mask is None else mask.bool()


def _tokens(processor: Any, text: str, image: int | None) -> tuple[int, str]:
    """How many picture tokens one picture and this text give; none, and why, where the processor refuses them."""
    try:
        inputs = processor(text=[text], images=[[PICTURE]], return_tensors="pt")
    except Exception as error:  # each family has its own way to say that tags and pictures do not match
        return 0, briefly(error)
    return int(pictured(inputs, image).sum()), ""


def _lead(processor: Any) -> str:
    """Tokenised by hand, the text must be found in what the processor writes."""
    row = processor(text=[WORDS], images=[[PICTURE]], return_tensors="pt")["input_ids"][0].tolist()
    for lead in ("", " ", "\n"):
        ids = processor.tokenizer(lead + WORDS, add_special_tokens=False)["input_ids"]
        if any(row[i : i + len(ids)] == ids for i in range(len(row))):
            return lead
    raise SpanError(
        f"{type(processor).__name__} puts pictures before the text, but the text's tokens are not found after them"
    )
