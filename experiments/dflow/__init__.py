"""D-Flow, arXiv 2402.14017: its tables on images, sound and molecules."""
