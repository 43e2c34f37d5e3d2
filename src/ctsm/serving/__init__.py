"""Replying to new conversations: the Python API that the command line and the service stand on."""
