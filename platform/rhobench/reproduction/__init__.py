"""Published tables compared with our own values."""
