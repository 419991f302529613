"""Where a GPT-NeoX keeps its attention weights, in TransformerLens' words and in transformers'.

The one place where the two meet. GPT-NeoX holds queries, keys and values of a head beside each other:
`query_key_value` has the rows `[head, (q, k, v), d_head]`, `dense` the columns `[head, d_head]`.
"""

HUGGINGFACE = {
    "blocks.{layer}.attn.qkv": "gpt_neox.layers.{layer}.attention.query_key_value",
    "blocks.{layer}.attn.o": "gpt_neox.layers.{layer}.attention.dense",
}
"""TransformerBridge component to module of a GPTNeoXForCausalLM. `hook_z` is the input of `attn.o`."""


def huggingface_name(component: str, layer: int) -> str:
    """The module of a GPTNeoXForCausalLM.

    >>> huggingface_name("attn.o", 3)
    'gpt_neox.layers.3.attention.dense'
    """
    return HUGGINGFACE[f"blocks.{{layer}}.{component}"].format(layer=layer)
