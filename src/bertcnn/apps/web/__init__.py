"""The web page: one text explained, two models side by side, a whole file."""
