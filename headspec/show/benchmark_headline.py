"""What certified systems of a benchmark gained and lost, a sentence each, beside baselines that hold as many bytes."""

from collections.abc import Iterator

from headspec.measure.estimate import Estimate
from headspec.show.benchmark_rows import BASELINE, CERTIFIED, QUALITY, REFERENCE, SIZE, Entrant, Numbers, Place
from headspec.show.benchmark_words import byte_words, digits, has_interval, percent, with_interval

EQUAL_BYTES = 0.1
"""Systems hold as many bytes as another if theirs differ by this share of the other's at most."""
NO_BASELINE = "It beats no baseline at equal bytes."
BASES = ("S", "P0")
ONE, ZERO = Estimate(1.0, 1.0, 1.0), Estimate(0.0, 0.0, 0.0)


def headlines(numbers: Numbers) -> list[tuple[Entrant, str]]:
    """Every certified system with its gains, its losses and how it stands beside the baselines."""
    certified = [entrant for entrant in numbers.entrants if entrant.standing == CERTIFIED]
    return [(entrant, " ".join(_sentences(numbers, entrant))) for entrant in certified]


def _sentences(numbers: Numbers, entrant: Entrant) -> Iterator[str]:
    found: dict[int, list[str]] = {1: [], 0: [], -1: []}
    for order, words in (*_sizes(numbers, entrant), *_paces(numbers, entrant)):
        found[order].append(words)
    judged = numbers.at(QUALITY, entrant.name, "kl") is not None
    lost = [*_harm(numbers, entrant), *found[-1]] if judged else [*found[-1], "its quality was not measured here"]
    yield f"Gained: {'; '.join(found[1]) or 'nothing that was measured'}."
    yield f"Lost: {'; '.join(lost)}."
    if found[0]:
        yield f"No difference to be told: {'; '.join(found[0])}."
    if judged:
        yield from _beside_baselines(numbers, entrant)


def _sizes(numbers: Numbers, entrant: Entrant) -> Iterator[tuple[int, str]]:
    """KV bytes and weights that differ from the original's: 1 for a gain, -1 for a loss."""
    share = numbers.value(QUALITY, entrant.name, "kv_share")
    if share is not None:
        yield (1 if share < 1 else -1), f"it holds {percent(share)} of the KV bytes"
    weights, full = (numbers.value(SIZE, name, "weight_bytes") for name in (entrant.name, "P0"))
    if weights is not None and full is not None and weights != full:
        yield (1 if weights < full else -1), f"weights of {byte_words(weights)}, P0 has {byte_words(full)}"


def _paces(numbers: Numbers, entrant: Entrant) -> Iterator[tuple[int, str]]:
    """Speed-ups in the largest cells: 1 for faster, -1 for slower, 0 where the interval leaves it open."""
    for part, measure, verb in (("decode", "tpot_ms", "decodes"), ("prefill", "ttft_ms", "reads a prompt")):
        places = [place for place in numbers.places(part, measure) if numbers.at(place, entrant.name, measure)]
        for place in [max(places, key=lambda place: (place.batch or 0, place.context or 0))] if places else []:
            for base in BASES:
                ratio = numbers.at(place, entrant.name, "speedup", base)
                if ratio is not None:
                    bound = _bound_words(numbers, entrant, place, ratio) if base == "P0" else ""
                    pace = f"it {verb} {with_interval(ratio)}× as fast as {base} at {place.words}{bound}"
                    yield _order(ratio, ONE), pace


def _bound_words(numbers: Numbers, entrant: Entrant, place: Place, ratio: Estimate) -> str:
    """What of a speed-up over P0 pruning can account for."""
    bound = numbers.value(place, entrant.name, "pruning_bound")
    if bound is None:
        return ""
    beyond = ", so not all of it is pruning" if has_interval(ratio) and ratio.low > bound else ""
    return f" (pruning alone: at most {digits(bound)}×{beyond})"


def _harm(numbers: Numbers, entrant: Entrant) -> Iterator[str]:
    increase, kl = (numbers.at(QUALITY, entrant.name, name) for name in ("perplexity_increase", "kl"))
    if increase is not None:
        yield f"perplexity {'+' if increase.value >= 0 else ''}{with_interval(increase, 100.0)} %"
    yield f"KL {with_interval(kl)} nats a token"
    original = next((each for each in numbers.entrants if each.standing == REFERENCE), None)
    for measure, words in (("induction_accuracy", "induction accuracy"), ("needle_accuracy", "needles found")):
        found = numbers.value(QUALITY, entrant.name, measure)
        before = None if original is None else numbers.value(QUALITY, original.name, measure)
        if found is not None:
            yield f"{words} {percent(found)}{'' if before is None else f' (original {percent(before)})'}"


def _beside_baselines(numbers: Numbers, entrant: Entrant) -> Iterator[str]:
    """Baselines with as many bytes: whose KL is higher, lower, or within the intervals."""
    own, rivals = numbers.at(QUALITY, entrant.name, "kl"), equal_bytes(numbers, entrant)
    if own is None or not rivals:
        yield f"No baseline was judged that holds as many bytes (within {percent(EQUAL_BYTES)})."
        return
    found: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    for rival in rivals:
        difference = numbers.at(QUALITY, entrant.name, "kl_difference", rival.name)  # on the same windows: sees more
        kl = numbers.at(QUALITY, rival.name, "kl")
        if difference is not None:
            found[_order(difference, ZERO)].append(rival.name)
        elif kl is not None:
            found[_order(own, kl)].append(rival.name)
    words = {-1: "lower than that of", 0: "not to be told from that of", 1: "higher than that of"}
    parts = [f"{how} {', '.join(found[order])}" for order, how in words.items() if found[order]]
    yield f"At equal bytes (within {percent(EQUAL_BYTES)}) its KL is {'; '.join(parts)}."
    if not found[-1]:
        yield NO_BASELINE


def equal_bytes(numbers: Numbers, entrant: Entrant) -> list[Entrant]:
    """The baselines that hold as many bytes as a system while text is continued."""
    share = numbers.value(QUALITY, entrant.name, "kv_share")
    if share is None:
        return []
    return [
        rival for rival in numbers.measured(QUALITY, "kl")
        if rival.standing == BASELINE
        and (held := numbers.value(QUALITY, rival.name, "kv_share")) is not None
        and abs(held - share) <= EQUAL_BYTES * share
    ]  # fmt: skip


def _order(own: Estimate, other: Estimate) -> int:
    """-1 where a value is lower than another, 1 where it is higher, 0 where the intervals overlap.

    Without intervals the values decide.
    """
    if has_interval(own) and has_interval(other):
        return (own.low > other.high) - (own.high < other.low)
    return (own.value > other.value) - (own.value < other.value)
