"""How the settings of `ctrlgen molecule` were chosen."""
