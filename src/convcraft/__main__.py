"""`python -m convcraft`."""

from convcraft.cli.app import main

if __name__ == "__main__":
    main()
