"""`python -m ctrlgen` is the command `ctrlgen`."""

from ctrlgen.cli import main

if __name__ == "__main__":
    main()
