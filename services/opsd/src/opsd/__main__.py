"""The program `opsd`."""

from common.start import loading

with loading():
    from opsd.main import main

if __name__ == "__main__":
    main()
