"""`python -m convcraft`."""

from convcraft.cli import main

if __name__ == "__main__":
    main()
