"""The cut-offs that decide a head's role, each with its unit, range and source.

They were fitted on a 135M-parameter language model and on the packaged 2.2M-parameter demo model, neither
of which is a Pythia: defaults to start from and to check, not truths. Every one is an option.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RoleThresholds:
    """Cut-offs between the three roles. Shares and scores are in [0, 1]; spreads are relative to the residual."""

    windowed_mass: float = 0.8
    """Least mean attention on the window plus the sink keys for a window to do. Source: held up on 270 heads of the
    135M model, where windowing every head above it cost 1.3 % in perplexity (window 32, 4 sinks)."""

    windowed_share: float = 0.6
    """Least share of the attention *outside the sinks* that falls into the window. Keeps heads that merely rest on
    a sink from being called positional. Source: as `windowed_mass`."""

    windows: Sequence[int] = (3, 4, 8, 16, 32, 64)
    """Window sizes to try, in keys, the query's own included; the smallest that passes is the one a head needs."""

    dead_spread: float = 0.09
    """Most a dead head's output may vary around its mean: root mean square of ‖(z − z̄) W_O‖ / ‖residual‖. Source:
    on three texts the demo model's weakest heads lie at .04 to .08, the next unprotected one at .10."""

    dead_spread_p95: float = 0.12
    """The same for the 95th percentile over windows of text, so that one lively passage is not averaged away."""

    dead_repeat_deviation: float = 0.17
    """Most that the output may differ from its mean *on text* while tokens repeat, relative to the residual. Source:
    the demo model's L2H0 looks dead on text, moves by .37 there and its removal costs .5 nats; the dead: < .15."""

    protected_induction: float = 0.15
    """Induction score from which a head is never called dead or positional. Source: the demo model's seven induction
    heads score .25 to .61, its next head .02; several of them write little on plain text."""

    def __post_init__(self) -> None:
        for name in ("windowed_mass", "windowed_share", "protected_induction"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share in [0, 1], got {share}.")
        for name in ("dead_spread", "dead_spread_p95", "dead_repeat_deviation"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is a size relative to the residual, 0 or more, got {getattr(self, name)}.")
        object.__setattr__(self, "windows", tuple(self.windows))  # JSON gives a list
        rising = list(self.windows) == sorted(set(self.windows))
        if not self.windows or not rising or not all(isinstance(size, int) and size >= 1 for size in self.windows):
            raise ValueError(f"windows are rising numbers of keys from 1 on, got {self.windows}.")
