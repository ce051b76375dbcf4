"""All methods on the same problems, which of them suits which, and the defaults that follow."""
