"""How much is tried: a minute's worth, or `MECHSURGERY_FUZZ` times as much. Run-time type checks are off here.

The checks of the tests (jaxtyping with beartype) would refuse before the package does; users do not have them.
"""

import os

import hypothesis
import jaxtyping
import pytest

hypothesis.settings.register_profile(
    "fuzz",
    derandomize=True,  # the same cases on every run and every machine
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("fuzz")


def times(n):
    """So many examples, in the larger profile more."""
    return hypothesis.settings(max_examples=round(n * float(os.environ.get("MECHSURGERY_FUZZ", "1"))))


@pytest.fixture(scope="module", autouse=True)
def _as_users_have_it():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
