"""`python -m gristmill`: the same as `gristmill`."""

from gristmill.cli import main

main()
