"""The methods that every benchmark compares with. A new one: write its file beside, and name it here."""

from headspec.measure.systems.baseline import Baseline
from headspec.measure.systems.expected_attention import ADA_EXPECTED_ATTENTION, EXPECTED_ATTENTION
from headspec.measure.systems.random_choice import RANDOM_CHOICE
from headspec.measure.systems.snapkv import ADA_SNAPKV, SNAPKV
from headspec.measure.systems.streaming_llm import STREAMING_LLM, STREAMING_LLM_DENSE

BASELINES: tuple[Baseline, ...] = (
    STREAMING_LLM, STREAMING_LLM_DENSE, SNAPKV, ADA_SNAPKV, EXPECTED_ATTENTION, ADA_EXPECTED_ATTENTION, RANDOM_CHOICE,
)  # fmt: skip
