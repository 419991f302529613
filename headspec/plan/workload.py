"""What a KV cache is weighed for: how long the prompt is, and how much is written after it. Plain data."""

from dataclasses import dataclass

from headspec.errors import HeadspecError


@dataclass(frozen=True)
class Workload:
    """A prompt and its continuation, of one sequence."""

    n_prompt: int
    n_new: int = 0
    """Tokens written after the prompt; bytes are the mean while they are written, or with 0 those after the prompt."""

    def __post_init__(self) -> None:
        if self.n_prompt < 1 or self.n_new < 0:
            raise HeadspecError(f"{self}: want a prompt of 1 token or more, and 0 or more new tokens.")

    @property
    def n_total(self) -> int:
        """Tokens in all."""
        return self.n_prompt + self.n_new

    @property
    def mean_keys(self) -> float:
        """Keys that a full cache holds of each head, in the mean while text is written."""
        return self.n_prompt + (self.n_new + 1) / 2 * bool(self.n_new)


def halves(n_tokens: int) -> Workload:
    """The first half of a text as prompt, the rest as its continuation."""
    return Workload(n_tokens // 2, n_tokens - n_tokens // 2)
