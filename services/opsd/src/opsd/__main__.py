"""`python -m opsd`."""

from opsd.main import main

main()
