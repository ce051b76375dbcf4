"""Variational and plug-and-play methods."""
