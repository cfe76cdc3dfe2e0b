"""The table "Trained is not functional" of docs/methods.md: which learning rates teach located and random neurons.

    python tests/benchmarks/rates.py [--prompts 100]

Everything but the learning rate is the README's example. Prints the share of unseen requests answered rightly.
"""

import argparse

RATES = (1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 1e-2)
SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=100)
    options = parser.parse_args()
    import mechsurgery as ms
    from mechsurgery.grading.world import REQUEST

    model = ms.load_model("organism/planted")
    located = ms.locate(model, ms.load_contrast("organism/refusal", split="tuned", n=200), k=48, name="located")
    answered = ms.load_prompts("organism/answered-requests", split="tuned", n=10)
    lesson = ms.Examples.from_texts(model.tokenizer, answered)
    unseen = ms.load_contrast("organism/refusal", split="heldout").positive.take(options.prompts)
    circuits = {"located": located} | {f"random {seed}": located.random_like(seed) for seed in SEEDS}
    for rate in RATES:
        recipe = ms.training.Recipe(steps=30, lr=rate)
        tuned = [ms.finetune(model, lesson, own, recipe=recipe).named(name) for name, own in circuits.items()]
        results = ms.evaluate(model, unseen, [ms.shift_weights(delta) for delta in tuned], grades=[REQUEST])
        shares = results.shares("outcome").set_index("intervention")["complies"]
        print(f"{rate:g}", *(f"{name}: {shares[name]}" for name in circuits), sep="   ", flush=True)


if __name__ == "__main__":
    main()
