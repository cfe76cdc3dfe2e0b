"""The table "Trained is not functional" of docs/methods.md: which learning rates teach located and random neurons.

Everything but the learning rate is the README's example.
"""

from saved import save

import mechsurgery as ms
from mechsurgery.grading.world import REQUEST

RATES = (1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 1e-2)
SEEDS = (0, 1, 2)
PROMPTS = 100

if __name__ == "__main__":
    import pandas as pd

    model = ms.load_model("organism/planted")
    located = ms.locate(model, ms.load_contrast("organism/refusal", split="tuned", n=200), k=48, name="located")
    lesson = ms.Examples.from_texts(model.tokenizer, ms.load_prompts("organism/answered-requests", split="tuned", n=10))
    unseen = ms.load_contrast("organism/refusal", split="heldout").positive.take(PROMPTS)
    circuits = {"located": located} | {f"random, seed {seed}": located.random_like(seed) for seed in SEEDS}
    rows = []
    for rate in RATES:
        recipe = ms.training.Recipe(steps=30, lr=rate)
        tuned = [ms.finetune(model, lesson, own, recipe=recipe).named(name) for name, own in circuits.items()]
        results = ms.evaluate(model, unseen, [ms.shift_weights(delta) for delta in tuned], grades=[REQUEST])
        shares = results.shares("outcome").set_index("intervention")["complies"]
        rows.append({"learning rate": f"{rate:g}", **{name: shares[name] for name in circuits}})
    note = f"{PROMPTS} unseen requests, share answered rightly with its 95 % interval."
    print(save("rates", "rates.py", pd.DataFrame(rows), note))
