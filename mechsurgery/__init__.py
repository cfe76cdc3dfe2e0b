"""mechsurgery: locate the few units of a language model that carry a behaviour, prove it, operate on just those.

The public names stand in `__init__.pyi`, which editors and type checkers read; they are imported when first used, so
`import mechsurgery` and `mechsurgery --help` are fast.
"""

import lazy_loader

from .safe_text import make_logs_visible

__version__ = "0.1.0"

make_logs_visible()
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
