"""Padding that is not in front: the keys of real tokens are what compressed heads choose from."""

import pytest
import torch
from compression_reference import compressed
from runtime_makers import random_ids

TOKENS = random_ids(1, 60)


@pytest.mark.parametrize("text", ["compress:snapkv:0.5", "compress:expected_attention:0.5"])
def test_a_prompt_padded_on_the_right_is_refused(text: str) -> None:
    model, padding = compressed(text), torch.ones(1, 20, dtype=torch.long)
    mask = torch.cat((torch.ones(1, 20), torch.zeros(1, 20)), 1).long()
    with torch.no_grad(), pytest.raises(ValueError, match="pad on the left"):
        model(torch.cat((TOKENS[:, :20], padding), 1), attention_mask=mask, past_key_values=model.make_cache())
