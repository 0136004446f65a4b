"""The program `shimd`."""

from common.start import loading

with loading():
    from shimd.main import main

if __name__ == "__main__":
    main()
