"""Published tables compared with our own numbers."""
