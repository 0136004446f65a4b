"""`python -m imaged`."""

from imaged.main import main

if __name__ == "__main__":
    main()
