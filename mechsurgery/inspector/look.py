"""`inspect`: one call for a neuron or a latent, however it is named; `inspect_latents` for many on any text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from numbers import Integral
from typing import Any

import pandas as pd

from ..checks import check_arguments
from ..errors import InputError
from ..models import Model, tokens
from ..models.dictionaries import Dictionary
from ..prompts import ContrastSet, PromptSet, encode
from ..prompts.chat import Template
from . import activity, vectors
from .catalogue import Catalogue, facts_of
from .coordinates import unit_of
from .view import UnitView, neighbours


def inspect(
    model: Model,
    unit: Any,
    contrast: ContrastSet | None = None,
    *,
    dictionary: Dictionary | None = None,
    base: Model | None = None,
    **options: Any,
) -> UnitView:
    """Everything about one unit, neuron or latent, as tables, figures and a page (see `UnitView`).

    A neuron is (layer, index), (hook name, index), "L5.446", or a row of a table with its site and neuron; with a
    `dictionary`, `unit` is one of its latents: its index, "NAME/812", or a row of a table. On the prompts of a
    `contrast` its activations, contexts, neighbours, ranks and effects are measured; without one, only what the weights
    say is known. With a `base` model its activations there are shown beside. `options` go to `Catalogue`, such as
    `scores`, `objective`, `contexts`. Raises `InputError` for a name that is none, `SiteError` where there is no such
    unit, `MismatchError` for a base with other units or tokens.

    >>> ms.inspect(model, "L5.446", contrast).save("neuron.html")  # doctest: +SKIP
    """
    dictionaries = list(options.pop("dictionaries", ())) + ([] if dictionary is None else [dictionary])
    place = (dictionary.site, int(unit)) if dictionary is not None and isinstance(unit, Integral) else unit
    asked = unit_of(model, place, dictionaries)
    if dictionary is not None and asked.dictionary is not dictionary:
        raise InputError(f"unit {asked.name} is no latent of {dictionary.name!r}; with a dictionary, give one of those")
    catalogue = Catalogue(
        model, contrast, base=base, units=[asked], dictionaries=dictionaries, **{"at_most": 1, **options}
    )
    return catalogue.view(asked)


def inspect_latents(
    model: Model,
    dictionary: Dictionary,
    latents: Sequence[int],
    prompts: PromptSet | Sequence[Sequence[int]],
    *,
    top: int = 8,
    template: str | Template = "auto",
    max_rows: int = 32,
) -> list[UnitView]:
    """Look at some latents on prompts (or on token ids), in one pass over them: contexts, density and tokens.

    Raises `SiteError` for a latent that is none.
    """
    dictionary.check(model)
    units = [unit_of(model, (dictionary.site, int(latent)), [dictionary]) for latent in latents]
    if isinstance(prompts, PromptSet):
        ids, names = encode(tokens.tokenizer_of(model), prompts, template=template), list(prompts.ids)
    else:
        ids = [list(row) for row in prompts]
        names = [str(i) for i in range(len(ids))]
    texts = [activity.Text(name, "", tuple(row)) for name, row in zip(names, ids)]
    every = activity.token_activations(model, units, texts, max_rows=max_rows)
    shown = cache(lambda i: tokens.pieces(tokens.tokenizer_of(model), texts[i].ids))
    found = []
    for place, unit in enumerate(units):
        own = activity.Measured([one[:, place].numpy() for one in every], pd.DataFrame(), None)
        found.append(
            UnitView(
                model=str(model.cfg.model_name),
                name=unit.name,
                kind=unit.kind,
                site=unit.site,
                index=unit.index,
                contexts=activity.contexts(texts, own, top, shown),
                activations=own.last,
                ranks=pd.DataFrame(columns=["rule", "score", "rank", "of"]),
                writes=vectors.writes(model, unit, top=top),
                reads=vectors.reads(model, unit, top=top),
                neighbours=neighbours(None, None),
                effects=pd.DataFrame(columns=["m", "value"]),
                facts=facts_of(unit, own),
                neuronpedia=vectors.neuronpedia_link(unit),
            )
        )
    return found


check_arguments(__name__)
