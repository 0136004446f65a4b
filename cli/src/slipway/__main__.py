"""`python -m slipway`."""

from slipway.main import main

main()
