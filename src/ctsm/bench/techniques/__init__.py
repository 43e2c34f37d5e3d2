"""`ctsm bench techniques`: each technique alone, in alternation with what it replaces.

`pair` says what a technique and its opposite are, `training` and `decoding` hold them, `verb` measures them.
"""
