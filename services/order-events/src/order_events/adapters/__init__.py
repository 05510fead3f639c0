"""Translators: what a shop platform sends, in our words."""
