"""Write `hooked.json`: what a HookedTransformer gives, for the tests of TransformerLens 4, which has none."""

import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import checkpoints, verbs

from mechsurgery.models import load_model

torch.set_num_threads(1)
found = {}
for family in ("llama", "qwen2", "gemma2", "gpt2", "neox"):
    layers = {"n_layer": 2} if family == "gpt2" else {"num_hidden_layers": 2}
    with tempfile.TemporaryDirectory() as directory:
        model = load_model(checkpoints.save(family, directory, **layers), bridge=False)
        names = verbs.VERBS if family == "llama" else verbs.CHIEF
        found[family] = {name: verbs.short(verbs.VERBS[name](model)) for name in names}
text = json.dumps(found, separators=(",", ":"))
(Path(__file__).parent / "hooked.json").write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")
