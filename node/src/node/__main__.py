"""`python -m node`."""

from node.main import main

main()
