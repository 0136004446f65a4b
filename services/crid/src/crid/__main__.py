"""`python -m crid`."""

from crid.main import main

main()
