"""The CNA study made small for tests: settings, and as few prompts as it can have."""

import sys
from dataclasses import replace

from mechsurgery.evaluation import agreement
from mechsurgery.studies.cna import Settings, choice, methods, sensitivity, study_data

SMALL = {"n_discovery": 24, "n_behaviour": 6, "n_benign": 3, "n_validation": 2, "n_benchmark": 4, "max_new_tokens": 8}
SETTINGS = Settings(
    base=("organism/base",),
    controls=3,
    n_control_prompts=4,
    fraction=0.003,
    published_k=20,
    localise=("organism/voices",),
    **SMALL,
)
#: As little as a study can be.
LEAST = replace(
    SETTINGS, base=(), mode=("as published",), controls=1, n_behaviour=3, n_benign=2, n_benchmark=2, sensitivity=False
)


def lighten(patch):
    """Fewer strengths and sizes; figures as HTML and JSON alone, since a browser engine for the others is slow."""
    patch.setattr(sys.modules["mechsurgery.plots.export"], "static_export_problem", lambda: "left out in this test")
    patch.setattr(sensitivity, "SIZES", (4,))
    patch.setattr(sensitivity, "FRACTIONS", (0.003, 0.01))
    patch.setattr(agreement, "DRAWS", 20)
    patch.setattr(sensitivity, "CONTROLS", 1)
    patch.setattr(methods, "CNA_SWEEP", (-1.0, -0.5, 1.0))
    patch.setattr(methods, "RIVAL_SWEEP", (-1.0, -0.25, 1.0))
    patch.setattr(choice, "LAYER_STRENGTHS", (-1.0,))


def little_data():
    """As few prompts as a study can have."""
    data = study_data(replace(LEAST, n_discovery=8))
    published = (data.discovery, data.discovery.positive.take(3))
    return replace(data, neutral=data.neutral.take(3), published=published)
