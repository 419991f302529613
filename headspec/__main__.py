"""`python -m headspec` is the command line."""

from headspec.cli import main

main()
