"""Turning decoder states into replies, over any model's cached decoder; `decode.decode` is the way in."""
