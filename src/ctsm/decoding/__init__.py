"""Turning decoder states into replies, over any model's cached decoder."""
