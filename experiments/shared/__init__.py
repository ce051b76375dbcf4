"""What experiments share: options, rows on disk, image quality, trials of methods, tables."""
