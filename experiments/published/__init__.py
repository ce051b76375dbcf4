"""The papers' tables on their own priors."""
