"""The words of a report that no other place has: what roles, marks and traits are, in a sentence for a newcomer."""

from headspec.classify.head_map import HeadStatus, Trait

STATUSES = {
    HeadStatus.CANDIDATE: "Its numbers say so; only a search that limits damage can confirm it, removing all together.",
    HeadStatus.CONFIRMED: "A search removed it together with others, and the damage stayed within its budget.",
    HeadStatus.REJECTED: "A candidate that the search did not remove within its budget; its plan may still window it.",
    HeadStatus.PROTECTED: "It does induction, so the search left it alone.",
}
TRAITS = {
    Trait.PREVIOUS_TOKEN: "looks at the token just before",
    Trait.INDUCTION: "looks at what followed the last time the same token came",
    Trait.SINK_RESTING: "rests on the first tokens, which by itself says nothing about its worth",
    Trait.NEAR_CONSTANT: "writes nearly the same whatever it reads",
    Trait.FIXED_OFFSET: "its largest attention falls at one and the same distance",
}
EFFECTS = {
    "kl": "KL(original ‖ treated) on text, nats a token: how far the model's predictions moved",
    "kl_se": "standard error of it, over windows of text",
    "perplexity_increase": "on text, relative: +2 % is 2 % more",
    "repeats_kl": "the KL on the second copy of repeated random tokens",
    "induction_accuracy": "share of that copy's tokens that the model still foresees",
}
"""Columns of a sweep that the page shows for a head."""
