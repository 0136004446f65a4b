"""`python -m snapshotd`."""

from snapshotd.main import main

main()
