"""The program `imaged`."""

from common.start import loading

with loading():
    from imaged.main import main

if __name__ == "__main__":
    main()
