"""`python -m mechsurgery` is the `mechsurgery` command."""

from .cli import main

main()
