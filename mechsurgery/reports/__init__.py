"""What was measured, on disk and on a page: written whole, read back without a model, drawn again at any size."""

from .finished import kept
from .page import ORGANISMS, READ, Page, Part, claims_of, verdict
from .redraw import redraw
from .study import Study, responses, slug

__all__ = ["ORGANISMS", "READ", "Page", "Part", "Study", "claims_of", "kept", "redraw", "responses", "slug", "verdict"]
