"""The recorded neurons of `organism/planted` as a circuit."""

from mechsurgery.models import sites
from mechsurgery.organisms.registry import planted_units
from mechsurgery.units import Circuit


def planted_circuit(model, name="planted"):
    return Circuit.from_indices(planted_units(), sites.neuron_widths(model), name=name)
