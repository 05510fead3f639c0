"""Translators and callers: one provider each, whose words never pass its file; and the page."""
