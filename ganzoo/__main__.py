"""`python -m ganzoo NAME ...` does what `ganzoo NAME ...` does."""

from ganzoo.cli import main

if __name__ == "__main__":
    main()
