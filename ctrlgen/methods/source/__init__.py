"""Methods that control the source point."""
