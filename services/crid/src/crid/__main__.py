"""The program `crid`."""

from common.start import loading

with loading():
    from crid.main import main

if __name__ == "__main__":
    main()
