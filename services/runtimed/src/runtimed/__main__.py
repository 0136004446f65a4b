"""`python -m runtimed`."""

from runtimed.main import main

if __name__ == "__main__":
    main()
