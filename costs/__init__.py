"""Cost functions: what a sample should be like, one number per sample."""
