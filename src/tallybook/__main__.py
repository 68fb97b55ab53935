"""`python -m tallybook`: the `tallybook` command."""

from .console import main

main()
