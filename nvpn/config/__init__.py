"""Configuration files, read whole and checked whole."""
