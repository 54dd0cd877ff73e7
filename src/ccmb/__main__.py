"""`python -m ccmb` is `ccmb`."""

from ccmb.cli import main

main()
