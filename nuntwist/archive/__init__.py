"""Archives: what a backup is as bytes, and how they are written and read."""
