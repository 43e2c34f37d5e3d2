"""Blocks that several models share.

Axes, in names and comments: B batch, S source (context) positions, T target positions, D hidden, V vocabulary,
E emotions (32), K relations, H heads, N packed target tokens. `real` masks are True where a position is not padding.
"""
