"""The domains that ship with ctrlgen; others plug in through the entry point `ctrlgen.domains`."""
