"""The program `snapshotd`."""

from common.start import loading

with loading():
    from snapshotd.main import main

if __name__ == "__main__":
    main()
