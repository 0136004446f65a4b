"""`python -m shimd` is the `shimd` command."""

from shimd.main import main

main()
