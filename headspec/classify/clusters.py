"""The HeadClusters record: which heads resemble each other, and what sets each group apart. Saved as JSON. No torch."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from headspec.errors import RecordError
from headspec.files import write_whole
from headspec.heads import HeadId, HeadRole
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import STATISTICS

SCHEMA = "headspec.HeadClusters/1"
SHARES = ("normalized_entropy", "sink_attention_ratio", "induction_score")
SIZES = ("output_spread", "repeat_deviation")
NEAR = {"attention on the own token": (0, 0), "attention one token back": (1, 1), "attention 2–7 tokens back": (2, 7)}
LABELS = {name: STATISTICS[name].label for name in (*SHARES, *SIZES)} | {name: name for name in NEAR}
"""What heads are compared by, and its words: shares as they are, sizes as logarithms, attention at NEAR offsets.

One witness for each kind of evidence. What says the same again is left out (correlation over the demo model's heads):
KL from uniform (-1.00) and largest attention (-.97) for normalised entropy; first-token (.97) and value-weighted (.98)
for the sink share; the previous-token score (.97) for attention one token back, which is always measured; relative
norm (.99), 95th percentile (.99) and share of the layer (.92) for the output spread.
"""
MOST_WORDS = 3
FAR = 0.5
"""Standard deviations from the mean of all heads from which a centre is called high or low. Own choice."""
STRUCTURE = {0.70: "strong structure", 0.50: "reasonable structure", 0.25: "weak structure, maybe artificial"}
"""Words for a silhouette above this; else "no substantial structure". Source: Kaufman & Rousseeuw 1990, chapter 2."""


@dataclass(frozen=True)
class HeadClusters:
    """Groups of heads with similar statistics: `clusters["L3H7"]` is the cluster of a head, counted from 0.

    Cluster 0 is the largest; of equally large ones, the one with the earlier head comes first.
    """

    about: ProbeAbout
    """Of the profile that was clustered."""
    statistics: tuple[str, ...]
    """What the heads were compared by, out of LABELS; each standardised over the heads."""
    left_out: tuple[tuple[str, str], ...]
    """(name, why) of the others in LABELS: `not measured` (NaN: no repeats were run) or `constant`."""
    assignment: tuple[int, ...]
    """`[head]`: the cluster of each head, in the order of `about.heads()`."""
    centres: tuple[tuple[float, ...], ...]
    """`[cluster][statistic]`: mean over its heads, in standard deviations from the mean of all heads."""
    silhouettes: tuple[tuple[int, float], ...]
    """(number of clusters, mean silhouette in [-1, 1]) of every number tried: the criterion (Rousseeuw 1987). Near 1
    clusters are tight and far apart, near 0 heads lie between them."""
    asked: bool
    """Whether the number of clusters was given; else it is the one with the largest silhouette."""
    coordinates: tuple[tuple[float, float], ...]
    """`[head]`: first two principal components of the standardised statistics, for drawing."""
    explained: tuple[float, float]
    """Share of the variance along each of the two, in [0, 1]."""
    adjusted_rand: float | None = None
    """Agreement with the roles, in [-.5, 1] (Hubert & Arabie 1985): 1 same groups, 0 as good as chance. Splitting a
    role lowers it without contradicting the rules: see `contingency`. None without a head map."""
    contingency: tuple[tuple[int, ...], ...] | None = None
    """`[role][cluster]`: how many heads have both, roles in the order of HeadRole. None without a head map."""
    seed: int = 0
    """Of the random starts of k-means."""

    def __post_init__(self) -> None:
        n_heads, n_clusters, n_statistics = len(self.about.heads()), len(self.centres), len(self.statistics)
        arrays = [np.array(part, dtype=float) for part in (self.assignment, self.coordinates, self.centres)]
        fits = [array.shape for array in arrays] == [(n_heads,), (n_heads, 2), (n_clusters, n_statistics)]
        fits = fits and all(np.isfinite(array).all() for array in arrays) and n_clusters in dict(self.silhouettes)
        fits = fits and set(self.assignment) == set(range(n_clusters)) and set(self.statistics) <= set(LABELS)
        if self.contingency is not None:
            fits = fits and np.shape(self.contingency) == (len(HeadRole), n_clusters)
        if not fits:
            raise RecordError(f"clusters of {self.about.model} need one entry for each of its {n_heads} heads, and for "
                              f"each of {n_clusters} clusters a head and {n_statistics} known statistics.")  # fmt: skip

    def __getitem__(self, head: HeadId | str) -> int:
        row, column = self.about.cell(head)
        return self.assignment[row * self.about.n_heads + column]

    def heads(self, cluster: int) -> list[HeadId]:
        """All heads of one cluster."""
        return [head for head in self.about.heads() if self[head] == cluster]

    @property
    def sizes(self) -> tuple[int, ...]:
        """`[cluster]`: how many heads it has, 1 or more, falling."""
        return tuple(self.assignment.count(cluster) for cluster in range(len(self.centres)))

    @property
    def silhouette(self) -> float:
        """Mean silhouette of these clusters, in [-1, 1]."""
        return dict(self.silhouettes)[len(self.centres)]

    @property
    def structure(self) -> str:
        """What the silhouette means, in words."""
        return next((words for cut, words in STRUCTURE.items() if self.silhouette > cut), "no substantial structure")

    @property
    def descriptions(self) -> tuple[str, ...]:
        """`[cluster]`: in which statistics, at most three, it differs most from the mean of this model's heads.

        High and low are relative: an attention of .03 on the sink is high where the other heads give it .01.
        """
        return tuple(_in_words(dict(zip(self.statistics, centre, strict=True))) for centre in self.centres)

    @property
    def sentence(self) -> str:
        """How many clusters, how clear they are, and how far they agree with the rules."""
        most = self.silhouettes[-1][0]
        why = "asked for" if self.asked else f"best of 2–{most}" if most > 2 else "no more are possible"
        parts = [f"{len(self.centres)} clusters (silhouette {_short(self.silhouette)}, {why}): {self.structure}"]
        if self.adjusted_rand is not None:
            parts.append(f"agreement with the rules: adjusted Rand {_short(self.adjusted_rand)}")
        if self.about.random_weights:
            parts.append("random weights: these numbers are good for timing and tests only")
        return "; ".join(parts)

    def save(self, path: Path | str) -> Path:
        """Write the clusters as JSON, with their descriptions and the sentence for readers."""
        assignment = {str(head): self[head] for head in self.about.heads()}
        values = {"schema": SCHEMA, "sentence": self.sentence, "descriptions": self.descriptions,
                  **asdict(self), "assignment": assignment}  # fmt: skip
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        return write_whole(Path(path), lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def load(cls, path: Path | str) -> "HeadClusters":
        """Read saved clusters; a damaged or foreign file is a RecordError."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.get("schema") != SCHEMA:
                raise RecordError(f"not a {SCHEMA} but {values.get('schema', 'something else')}.")
            about = ProbeAbout.from_dict(values["about"])
            assignment = tuple(values["assignment"][str(head)] for head in about.heads())
            parts = {part.name: tuples(values[part.name]) for part in fields(cls)}
            return cls(**{**parts, "about": about, "assignment": assignment})
        except FileNotFoundError as error:
            raise RecordError(f"no clusters at {path}: `cluster_heads(profile).save(path)` writes them.") from error
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} is damaged ({type(error).__name__}: {error}). Cluster again.") from error


def _in_words(centre: dict[str, float]) -> str:
    far = sorted((name for name in centre if abs(centre[name]) >= FAR), key=lambda name: -abs(centre[name]))
    words = [f"{'high' if centre[name] > 0 else 'low'} {LABELS[name]}" for name in far[:MOST_WORDS]]
    return ", ".join(words) or "close to the mean of all heads"


def _short(share: float) -> str:
    """`.41` for 0.41, as in tables of statistics."""
    return f"{share:.2f}".replace("0.", ".", 1)


def tuples(values: Any) -> Any:
    """Arrays and lists as nested tuples, which a frozen record can hold."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    return tuple(map(tuples, values)) if isinstance(values, list | tuple) else values
