"""Models whose hook_z fires before hook_pattern (OPT) are read at the right positions too."""

import numpy as np
import torch
from tiny_models import bridge_of
from transformers import OPTConfig, OPTForCausalLM

from headspec.probe.catalogue import GRIDS
from headspec.probe.collect import probe_heads


def test_segments_do_not_change_a_model_that_fires_z_first() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
            max_position_embeddings=128, word_embed_proj_dim=32, init_std=0.2, attn_implementation="eager",
        )  # fmt: skip
        model = bridge_of(OPTForCausalLM(config).eval())
    ids = torch.arange(100) * 7 % 60 + 2
    whole = probe_heads(model, ids, segment=100, progress=False)
    pieces = probe_heads(model, ids, segment=32, progress=False)
    for name in GRIDS:
        np.testing.assert_allclose(pieces[name], whole[name], atol=1e-4, err_msg=name)
