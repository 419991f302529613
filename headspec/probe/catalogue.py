"""What every statistic of a HeadProfile means: label, unit, range, reading, and when it misleads.

The one place for these words: tables, figures and the documentation take them from here. No torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistic:
    """How to read one number."""

    label: str
    unit: str
    meaning: str
    caution: str = ""
    high: float | None = None
    """Largest possible value, None if there is no bound; the smallest is 0."""


STATISTICS: dict[str, Statistic] = {
    "attention_entropy": Statistic(
        "attention entropy", "nats", "Shannon entropy of the attention of a query, averaged.",
        "Grows with the context; low entropy is not positional: heads that rest on a sink have the lowest.",
    ),
    "normalized_entropy": Statistic(
        "normalised entropy", "share", "Entropy divided by the log of the number of visible keys.",
        "Not length-invariant: compare only windows of the same length.", high=1.0,
    ),
    "uniform_score": Statistic(
        "KL from uniform", "nats", "KL(attention ‖ uniform over the visible keys) = log(visible keys) − entropy.",
        "The same statistic as entropy in another dress, not a second witness. Near-uniform is not dead.",
    ),
    "max_attention": Statistic(
        "largest attention", "share", "Attention on the most attended key, averaged over queries.",
        "High for sink heads too; see where the maximum falls.", high=1.0,
    ),
    "first_token_attention_ratio": Statistic(
        "attention on the first token", "share", "Attention on the very first key.",
        "Pythia was trained without a BOS token: the first token is whatever starts the window.", high=1.0,
    ),
    "sink_attention_ratio": Statistic(
        "attention on the sink", "share", "Attention on the first 4 keys (`n_sinks`).",
        "High alone makes a head neither positional nor dead: induction heads rest there between uses.", high=1.0,
    ),
    "value_weighted_sink_share": Statistic(
        "value-weighted sink share", "share", "Share of the sink keys when attention is weighted by ‖v W_O‖.",
        "Far below the sink share where a head rests on the sink to do nothing.", high=1.0,
    ),
    "output_norm": Statistic(
        "output norm", "residual units", "Mean ‖z W_O‖: what the head writes into the residual stream.",
        "Does not compare across layers: early residuals are small. Use the relative norm.",
    ),
    "relative_output_norm": Statistic(
        "relative output norm", "× residual", "Mean ‖z W_O‖ / ‖residual entering the layer‖.",
        "A constant output counts here, though a bias could replace it for free; see the spread.",
    ),
    "output_spread": Statistic(
        "output spread", "× residual", "Root mean square of ‖(z − z̄) W_O‖ / ‖residual‖: what mean ablation destroys.",
        "Small on plain text for induction heads; look at repeats too before removing a head.",
    ),
    "output_spread_p95": Statistic(
        "output spread, 95th percentile", "× residual", "The output spread of the liveliest windows of text.",
        "Interpolated: with few windows, just below the largest.",
    ),
    "repeat_deviation": Statistic(
        "deviation on repeats", "× residual",
        "Root mean square of ‖(z − z̄ of the text) W_O‖ / ‖residual‖ in the second copy of repeated random tokens.",
        "Reacts to random tokens as such, not only to their repetition. NaN when no repeated sequences were run.",
    ),
    "share_of_layer": Statistic(
        "share of the layer's output", "share", "‖z W_O‖ of the head over the sum of all heads of the layer.",
        "For reading only: a small share of a large output may matter.", high=1.0,
    ),
    "previous_token_score": Statistic(
        "previous-token score", "share", "Attention on the key just before the query (repeats, second copy).",
        "NaN when no repeated sequences were run.", high=1.0,
    ),
    "induction_score": Statistic(
        "induction score", "share", "Attention on the key after the earlier copy of the token (second copy of repeated "
        "random tokens; Olsson et al. 2022).",
        "NaN when no repeated sequences were run.", high=1.0,
    ),
}  # fmt: skip

GRIDS = tuple(STATISTICS)
BY_POSITION = (
    "attention_entropy", "normalized_entropy", "uniform_score", "max_attention", "first_token_attention_ratio",
    "sink_attention_ratio", "value_weighted_sink_share", "output_norm", "relative_output_norm", "share_of_layer",
)  # fmt: skip
"""Statistics that are averages over queries, kept by position and (all but none) by window."""
BY_WINDOW = (*BY_POSITION, "output_spread")
