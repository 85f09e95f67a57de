"""`python -m tunewise`: the command line."""

from tunewise.cli.main import main

main()
