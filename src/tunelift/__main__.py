"""`python -m tunelift`."""

from tunelift.cli.main import main

main()
