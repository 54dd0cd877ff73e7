"""`python -m ccmb` is `ccmb`."""

from ccmb.cli.main import main

main()
