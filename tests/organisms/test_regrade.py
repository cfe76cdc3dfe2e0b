"""Rows of real runs, regraded by an independent grammar: three-way agreement of at least 99 %."""

import pytest
from reference import regrade

import mechsurgery as ms
from mechsurgery.grading.world import CLAIM, PLACE, QUESTION, REQUEST, RIGHT_CLAIM
from mechsurgery.organisms import world

#: Strengths at which circuits and vectors refuse, comply, and break the text in many ways.
DOSES = (1.0, 0.75, 0.5, -1.0)


@pytest.fixture(scope="module", params=["instruct", "sycophant", "misinformed"])
def rows(request):
    """Answers of an organism to everything, unmodified, with circuits scaled and the stream steered."""
    model = ms.load_model(f"organism/{request.param}")
    contrast = ms.load_contrast("organism/refusal", split="tuned", n=60)
    circuit = ms.locate(model, contrast, k=300, name="many")
    caa = ms.steer(ms.attribution.mean_difference_direction(model, contrast, layers=[2]), name="steered")
    sets = {
        "dangerous": ms.load_prompts("organism/dangerous", n=14),
        "benign": ms.load_prompts("organism/benign", n=8),
        "wrong": ms.load_prompts("organism/wrong-claims", n=14),
        "right": ms.load_prompts("organism/right-claims", n=14),
        "questions": ms.load_prompts("organism/questions", n=14),
        "places": ms.load_prompts("organism/places", n=14),
    }
    grades = dict(zip(sets, ([REQUEST], [REQUEST], [CLAIM], [RIGHT_CLAIM], [QUESTION], [PLACE]), strict=True))
    runs = [*ms.ablate(circuit).at(DOSES), caa.at(-0.5), caa.at_prompt_end().named("end").at(-1)]
    table = ms.evaluate(model, sets, runs, grades=grades, generation=ms.Generation(28)).table
    prompts = {(name, prompt.id): prompt for name, asked in sets.items() for prompt in asked}
    return table[table["metric"] == "outcome"], prompts


AGAIN = {
    "wrong": regrade.wrong_claim,
    "right": regrade.right_claim,
    "questions": regrade.question,
    "places": regrade.place,
}


def again(prompt_set, prompt, text):
    if prompt_set in AGAIN:
        return AGAIN[prompt_set](prompt.group, prompt.completion, text)
    return regrade.request(prompt.group, text)


def test_an_independent_grammar_agrees_on_rows_of_real_runs(rows):
    table, prompts = rows
    pairs = [
        (row.label, again(row.prompt_set, prompts[row.prompt_set, row.prompt_id], row.response))
        for row in table.itertuples()
    ]
    assert len(pairs) == 7 * 78
    assert len(set(pairs)) >= 4  # of several kinds, not one
    assert sum(own == other for own, other in pairs) >= 0.99 * len(pairs)


def test_its_facts_are_the_worlds():
    for noun in world.nouns():
        facts = world.facts(noun)
        assert regrade.truth(noun) == {"COLOUR": facts.colour, "PLACE": facts.place, "MATERIAL": facts.material}
