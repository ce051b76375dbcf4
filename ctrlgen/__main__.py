"""`python -m ctrlgen` is the command `ctrlgen`."""

from ctrlgen.commands.main import main

if __name__ == "__main__":
    main()
