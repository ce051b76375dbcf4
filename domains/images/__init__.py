"""Images: data, networks, operators, metrics and pretrained priors."""
