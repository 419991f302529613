"""Padding that is not in front: the keys of real tokens are what compressed heads choose from."""

import pytest
import torch
from compression_reference import compressed, reference_logits
from runtime_makers import random_ids, same

TOKENS = random_ids(1, 60)


# BUG: `CompressedStore._choose` takes all padding to be in front: here it keeps 10 padding keys and no real one.
@pytest.mark.parametrize("text", ["compress:snapkv:0.5", "compress:expected_attention:0.5"])
def test_a_prompt_padded_on_the_right_gives_what_it_gives_alone(text: str) -> None:
    model, padding = compressed(text), torch.ones(1, 20, dtype=torch.long)
    mask = torch.cat((torch.ones(1, 20), torch.zeros(1, 20), torch.ones(1, 40)), 1).long()
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = model.make_cache()
    with torch.no_grad():
        model(torch.cat((TOKENS[:, :20], padding), 1), attention_mask=mask[:, :40], position_ids=places[:, :40],
              past_key_values=cache)  # fmt: skip
        found = model(TOKENS[:, 20:], attention_mask=mask, position_ids=places[:, 40:], past_key_values=cache).logits
    same(found, reference_logits(text, TOKENS, 20)[:, 20:], 1e-5)
