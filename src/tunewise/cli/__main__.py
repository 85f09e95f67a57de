"""`python -m tunewise.cli`."""

from tunewise.cli.main import main

main()
