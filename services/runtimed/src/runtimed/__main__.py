"""The program `runtimed`."""

from common.start import loading

with loading():
    from runtimed.main import main

if __name__ == "__main__":
    main()
