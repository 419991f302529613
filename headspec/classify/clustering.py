"""A second opinion on the roles: heads grouped by k-means, without any cut-off.

Decides nothing: roles come from `rules.py`. Needs scikit-learn, imported only when heads are clustered.
"""

from collections import Counter
from typing import Any

import numpy as np

from headspec.classify.clusters import NEAR, SHARES, SIZES, HeadClusters, tuples
from headspec.classify.head_map import HeadMap
from headspec.errors import HeadspecError
from headspec.heads import HeadRole
from headspec.probe.profile import HeadProfile

FLOOR = 1e-3
"""× residual: what a head writes below this is equally nothing, whatever its logarithm."""
CONSTANT = 1e-6
"""A statistic that differs by less over all heads is float32 noise, and must not be scaled up to one."""
FEWEST_HEADS = 4
STARTS = 100
"""Random starts of k-means, of which the tightest result counts. With the usual 10 the demo model gets 6 or 7 clusters
depending on the seed; with 100 all five seeds tried find the same, in 0.3 s (2 s for 1,024 heads)."""


def cluster_heads(profile: HeadProfile, head_map: HeadMap | None = None, *, n_clusters: int | None = None,
                  most_clusters: int = 8, seed: int = 0) -> HeadClusters:  # fmt: skip
    """Group heads by their standardised statistics (LABELS) with k-means, and compare the groups with the roles.

    Args:
        profile: From `probe_heads`. Statistics that are NaN, or the same for all heads, are left out and named.
        head_map: The roles to compare with; the clusters do not depend on them.
        n_clusters: How many; by default the number with the largest mean silhouette, out of 2 … `most_clusters`.
        most_clusters: Most to try, 2 or more; never more than there are different heads, nor than heads less one.
        seed: For the random starts of k-means; the same seed gives the same clusters.
    """
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score
    from sklearn.preprocessing import StandardScaler

    columns, left_out = _usable(profile)
    values = StandardScaler().fit_transform(np.column_stack(list(columns.values())))
    tried = {k: _k_means(values, k, seed) for k in _numbers_to_try(profile, values, n_clusters, most_clusters)}
    silhouettes = {k: float(silhouette_score(values, assignment)) for k, assignment in tried.items()}
    chosen = n_clusters or max(silhouettes, key=lambda k: silhouettes[k])
    assignment = tried[chosen]
    pca = PCA(min(2, len(columns))).fit(values)
    missing = 2 - pca.n_components_  # a single statistic has one component only
    return HeadClusters(
        about=profile.about, statistics=tuple(columns), left_out=left_out, assignment=tuples(assignment),
        centres=tuples([values[assignment == k].mean(0) for k in range(chosen)]),
        silhouettes=tuple(silhouettes.items()), asked=n_clusters is not None, seed=seed,
        coordinates=tuples(np.pad(pca.transform(values), ((0, 0), (0, missing)))),
        explained=tuples(np.pad(pca.explained_variance_ratio_, (0, missing))),
        **({} if head_map is None else _agreement(profile, head_map, assignment)),
    )  # fmt: skip


def _usable(profile: HeadProfile) -> tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]:
    """`[head]` of every statistic that tells heads apart, and (name, why) of the others."""
    if len(profile.about.heads()) < FEWEST_HEADS:
        raise HeadspecError(f"{len(profile.about.heads())} heads of {profile.about.model} are too few to cluster: "
                            f"probe {FEWEST_HEADS} or more (more layers).")  # fmt: skip
    grids = {name: profile[name] for name in SHARES}
    grids |= {name: np.log10(np.maximum(profile[name], FLOOR)) for name in SIZES}
    for name, (first, last) in NEAR.items():
        inside = (profile.offset_edges >= first) & (profile.offset_edges <= last)
        grids[name] = profile.offset_mass[..., inside].sum(-1)
    columns = {name: grid.ravel().astype(np.float64) for name, grid in grids.items()}
    why = {name: "not measured" for name, column in columns.items() if not np.isfinite(column).all()}
    why |= {name: "constant" for name, column in columns.items() if np.ptp(column) < CONSTANT}
    if len(why) == len(columns):
        raise HeadspecError(f"all heads of {profile.about.model} have the same statistics: there is nothing to "
                            "cluster. Probe another text or model.")  # fmt: skip
    return {name: column for name, column in columns.items() if name not in why}, tuple(why.items())


def _numbers_to_try(profile: HeadProfile, values: np.ndarray, n_clusters: int | None, most: int) -> list[int]:
    different = len(np.unique(values.round(6), axis=0))
    possible = min(len(values) - 1, different)
    if most < 2 or (n_clusters is not None and not 2 <= n_clusters <= possible):
        wrong = f"most_clusters={most}" if most < 2 else f"n_clusters={n_clusters}"
        raise HeadspecError(f"{wrong}: {profile.about.model} has {len(values)} heads, {different} of them different; "
                            f"give 2 to {possible}.")  # fmt: skip
    return sorted({*range(2, min(most, possible) + 1), *([n_clusters] if n_clusters else [])})


def _k_means(values: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """`[head]`: clusters, the largest first, then the one with the earliest head."""
    from sklearn.cluster import KMeans

    found = KMeans(n_clusters, n_init=STARTS, random_state=seed).fit_predict(values).tolist()
    size = Counter(found)  # keeps the order in which clusters first occur, and so does sorting by size
    place = {cluster: index for index, cluster in enumerate(sorted(size, key=lambda each: -size[each]))}
    return np.array([place[cluster] for cluster in found])


def _agreement(profile: HeadProfile, head_map: HeadMap, assignment: np.ndarray) -> dict[str, Any]:
    """The two fields of HeadClusters that compare clusters with roles."""
    from sklearn.metrics import adjusted_rand_score

    head_map.about.check_model(profile.about.model, profile.about.n_layers, profile.about.n_heads)
    if head_map.about.layers != profile.about.layers:
        raise HeadspecError(f"the head map has layers {head_map.about.layers}, the profile {profile.about.layers}: "
                            "classify this profile.")  # fmt: skip
    roles = [verdict.role for verdict in head_map]
    both = Counter(zip(roles, assignment.tolist(), strict=True))
    table = tuple(tuple(both[role, cluster] for cluster in range(max(assignment) + 1)) for role in HeadRole)
    return {"adjusted_rand": float(adjusted_rand_score(roles, assignment)), "contingency": table}
