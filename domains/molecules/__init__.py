"""Molecules of QM9: data, chemistry, metrics, networks and pretrained priors."""

from __future__ import annotations
