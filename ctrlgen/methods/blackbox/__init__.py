"""Methods that ask a cost for its values alone, never for a gradient."""
