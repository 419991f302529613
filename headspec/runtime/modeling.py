"""A GPT-NeoX whose heads were treated: removed heads are not there, windowed heads remember little.

Loads with `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`, then works as transformers' models
do. What differs: attention runs by groups of heads (`attention.py`), each with its own key-value store (`stores.py`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.utils import can_return_tuple

from .adaptive import AdaptivePolicy
from .cache import PrunedCache, real_columns
from .configuration import PrunedGPTNeoXConfig
from .faster import Faster
from .layers import PrunedLayer
from .linear import FastLinear
from .pretrained import PrunedPreTrainedModel
from .step import Step
from .tricks import Tricks


class PrunedGPTNeoXModel(PrunedPreTrainedModel):
    """Embedding, layers and final norm."""

    def __init__(self, config: PrunedGPTNeoXConfig):
        super().__init__(config)
        self.tricks = Tricks()
        self.embed_in = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(PrunedLayer(config, i, self.tricks) for i in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.rotary_emb = GPTNeoXRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding."""
        return self.embed_in

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding."""
        self.embed_in = value
        self.layers[0].register_buffer("table", None, persistent=False)  # it belongs to the embedding before

    def make_cache(self, policy: Any = None, *, expected: int = 0, prompt: int = 0) -> PrunedCache:
        """An empty KV cache; `expected` tokens, padding included, get their room at once."""
        if isinstance(policy, dict):
            policy = AdaptivePolicy(**policy)
        if policy is not None and not hasattr(policy, "treatments"):  # not isinstance: remote code makes its own class
            raise TypeError(
                f"{policy!r} is no AdaptivePolicy: sizes are given by name, as in make_cache(expected=300)."
            )
        if policy is not None and any(
            isinstance(part, FastLinear) and part.packing is not None for part in self.modules()
        ):
            raise RuntimeError("packed weights cannot be treated live, as no head can be cut out of them: load anew.")
        return PrunedCache(self.config, expected, self.tricks, prompt, policy)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        n_last: int = 0,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The residual stream after the final norm, of the last `n_last` tokens (0: of all)."""
        self._check(input_ids, inputs_embeds, past_key_values, output_attentions)
        hidden = self.embed_in(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = self.make_cache()
        first = 0 if past_key_values is None else past_key_values.left_of_prompt(hidden.shape[1])
        if first:
            return self._in_two(
                first, hidden, attention_mask, position_ids, past_key_values, output_hidden_states, n_last
            )
        step = self._step(hidden, attention_mask, position_ids, past_key_values)
        step.tokens = input_ids
        record = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states = [hidden] if record else []
        for number, layer in enumerate(self.layers):
            shorten = number == len(self.layers) - 1 and n_last and not record and self.tricks.last_tokens
            cache = None if past_key_values is None else past_key_values.layers[number]
            hidden = layer(hidden, step, cache, min(n_last, step.n_new) if shorten else step.n_new)
            if cache is not None:
                cache.length = step.n_total
            if record and number < len(self.layers) - 1:
                states.append(hidden)
        if past_key_values is not None:
            past_key_values.note(hidden, step.n_new)
        hidden = self.final_layer_norm(hidden if record else hidden[:, -n_last:])
        return BaseModelOutputWithPast(
            last_hidden_state=hidden[:, -n_last:], past_key_values=past_key_values,
            hidden_states=(*states, hidden) if record else None,
        )  # fmt: skip

    def _in_two(
        self, first: int, hidden: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: PrunedCache,
        record: bool | None, n_last: int,
    ) -> BaseModelOutputWithPast:  # fmt: skip
        """The end of the prompt, after which compressed heads choose their keys, and then what follows."""
        self.check_columns(hidden, mask, cache)  # all of it, before anything is read
        seen = cache.get_seq_length() + first
        pieces = ((slice(None, first), slice(None, seen)), (slice(first, None), slice(None)))
        outputs = [
            self(
                inputs_embeds=hidden[:, new], attention_mask=None if mask is None else mask[:, columns],
                position_ids=None if position_ids is None else position_ids[:, new], past_key_values=cache,
                use_cache=True, output_hidden_states=record, return_dict=True,
            )
            for new, columns in pieces
        ]  # fmt: skip
        states = [output.hidden_states for output in outputs]
        return BaseModelOutputWithPast(
            last_hidden_state=torch.cat([output.last_hidden_state for output in outputs], dim=1)[:, -n_last:],
            past_key_values=cache,
            hidden_states=tuple(torch.cat(both, dim=1) for both in zip(*states, strict=True)) if states[0] else None,
        )

    def _step(
        self, hidden: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: PrunedCache | None
    ) -> Step:
        n_new, n_past = hidden.shape[1], 0 if cache is None else cache.get_seq_length()
        real = self.check_columns(hidden, mask, cache)
        if mask is None and cache is None and position_ids is not None and bool((position_ids.diff() != 1).any()):
            raise ValueError(
                "position_ids jump, as in texts packed into one row: the pruned model cannot keep such texts apart. "
                "Give each a row of its own, with an attention_mask."
            )
        if cache is not None:
            cache.real = real
        if position_ids is None:
            position_ids = torch.arange(n_past, n_past + n_new, device=hidden.device)[None]
        rotation = self.rotary_emb(hidden, position_ids=position_ids)
        frequencies = self.rotary_emb.inv_freq
        return Step(n_past, n_new, real, rotation, hidden.device, self.tricks, frequencies)

    def check_columns(self, hidden: Tensor, mask: Tensor | None, cache: PrunedCache | None) -> Tensor | None:
        """Which columns are real, if the new ones fit into the context and the mask covers them."""
        n_past = 0 if cache is None else cache.get_seq_length()
        n_total, context = n_past + hidden.shape[1], self.config.max_position_embeddings
        if n_total > context:
            raise ValueError(f"{n_total} tokens are more than the model's context of {context}.")
        return real_columns(mask, cache, hidden.shape[:2], n_past)

    @staticmethod
    def _check(input_ids: Any, inputs_embeds: Any, cache: Any, output_attentions: bool | None) -> None:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds.")
        if cache is not None and not hasattr(cache, "real"):  # not isinstance: remote code makes its own class
            raise ValueError(
                f"{type(cache).__name__} cannot hold what pruned heads remember: pass past_key_values="
                "model.make_cache(), or leave past_key_values and cache_implementation out."
            )
        if output_attentions:
            raise ValueError(
                "the pruned model forms no attention patterns (output_attentions): look at the original model's."
            )


class PrunedGPTNeoXForCausalLM(Faster, PrunedPreTrainedModel, GenerationMixin):
    """A pruned GPT-NeoX with its unembedding: `generate`, beams, `labels`, as transformers' GPTNeoXForCausalLM."""

    _tied_weights_keys = {"lm_head.weight": "gpt_neox.embed_in.weight"}  # noqa: RUF012

    def __init__(self, config: PrunedGPTNeoXConfig):
        super().__init__(config)
        self.gpt_neox = PrunedGPTNeoXModel(config)
        self.lm_head = FastLinear(config.hidden_size, config.vocab_size, False, self.tricks)
        self.post_init()

    @property
    def tricks(self) -> Tricks:
        """What the model may do to be fast; set a field to False to see it work without."""
        return self.gpt_neox.tricks

    def get_output_embeddings(self) -> nn.Module:
        """The unembedding."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Replace the unembedding."""
        self.lm_head = new_embeddings

    def make_cache(self, policy: Any = None, *, expected: int = 0, prompt: int = 0) -> PrunedCache:
        """An empty KV cache for `past_key_values`.

        Args:
            policy: An AdaptivePolicy (or its settings as a dictionary): heads that see every key in this checkpoint are
                watched, classified and treated while text is generated. None: all is done as the checkpoint says.
            expected: Tokens that will be read, padding included: they get their room at once. 0 if unknown: the cache
                then grows in steps, which costs some copying.
            prompt: Of these, the tokens of the prompt, after which compressed heads choose their keys. 0: the first
                call brings the whole prompt.
        """
        return self.gpt_neox.make_cache(policy, expected=expected, prompt=prompt)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and with `labels` the loss; as in transformers' GPTNeoXForCausalLM.

        Args:
            input_ids: `[batch, token]`.
            attention_mask: `[batch, past + token]`, 0 on padding, 1 elsewhere.
            position_ids: `[batch, token]`; counted from the first column if not given.
            inputs_embeds: `[batch, token, d_model]` instead of `input_ids`.
            past_key_values: From the call before, or `make_cache()`.
            labels: `[batch, token]`, −100 where there is nothing to predict.
            use_cache: Whether to give back a cache; the config decides if None.
            output_hidden_states: Also give the residual stream before each layer, and after the final norm.
            output_attentions: Refused: no patterns are formed.
            logits_to_keep: Only the logits of so many last tokens (0: of all), or of these places.
        """
        beyond = {"labels": labels, "inputs_embeds": inputs_embeds, "output_attentions": output_attentions,
                  "output_hidden_states": output_hidden_states or self.config.output_hidden_states,
                  "places": logits_to_keep if isinstance(logits_to_keep, Tensor) else None}  # fmt: skip
        if self.compiled is not None and self.compiled.serves(input_ids, past_key_values, beyond):
            logits = self.compiled.step(input_ids, attention_mask, position_ids, past_key_values)
            return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)
        n_last = logits_to_keep if isinstance(logits_to_keep, int) and labels is None else 0
        outputs = self.gpt_neox(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds,
            past_key_values=past_key_values, use_cache=use_cache, output_hidden_states=output_hidden_states,
            output_attentions=output_attentions, n_last=n_last, return_dict=True,
        )  # fmt: skip
        hidden = outputs.last_hidden_state
        logits = self.lm_head(hidden[:, logits_to_keep] if isinstance(logits_to_keep, Tensor) else hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )

    def generate(self, inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers' `generate`, with a cache of the size that will be needed.

        Raises:
            ValueError: Prompt and new tokens are more than the context, or another kind of cache is asked for.
        """
        config = generation_config or self.generation_config

        def setting(name: str) -> Any:
            given = kwargs.get(name)
            return getattr(config, name, None) if given is None else given

        if setting("cache_implementation") not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={setting('cache_implementation')!r}: the pruned model has a cache of its own; "
                "leave it out."
            )
        prompt = next((kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None), inputs)
        n_prompt = 1 if prompt is None else prompt.shape[1]
        new = setting("max_new_tokens")
        total = n_prompt + new if new is not None else max(setting("max_length") or 0, n_prompt)
        context = self.config.max_position_embeddings
        if max(n_prompt, total - 1) > context:  # the last new token is not read
            raise ValueError(
                f"{n_prompt} prompt tokens and {total - n_prompt} new ones are more than the model's context of "
                f"{context}."
            )
        kwargs["cache_implementation"] = None  # whichever "dynamic" came from
        kwargs["use_cache"] = setting("use_cache") is not False  # None would read everything anew for every token
        if kwargs.get("past_key_values") is None and kwargs["use_cache"]:
            kwargs["past_key_values"] = self.make_cache(expected=total, prompt=n_prompt)
            if setting("is_assistant"):
                kwargs["past_key_values"].activate_past_recording()
        elif hasattr(kwargs.get("past_key_values"), "expect"):
            kwargs["past_key_values"].expect(total, n_prompt)
        return super().generate(inputs, generation_config, *args, **kwargs)
