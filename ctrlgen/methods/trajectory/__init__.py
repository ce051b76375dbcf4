"""Methods that control the whole trajectory at once."""
