"""The models that the tests of live treatment share."""

import pytest
from plan_references import MAKERS, Treatable, treatable


@pytest.fixture(scope="session")
def all_treatable() -> dict[str, Treatable]:
    return {name: treatable(make) for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS, scope="session")
def each(request: pytest.FixtureRequest, all_treatable: dict[str, Treatable]) -> Treatable:
    """Every model in turn. Shared: leave it as it is."""
    return all_treatable[request.param]


@pytest.fixture(scope="session")
def neox(all_treatable: dict[str, Treatable]) -> Treatable:
    """A GPT-NeoX of 2 layers with 4 heads. Shared: leave it as it is."""
    return all_treatable["parallel"]
