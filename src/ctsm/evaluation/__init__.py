"""Metrics, the schema of results and replies, and the tables made from them; nothing here needs torch."""
