"""The plain path: CTSM and a Transformer computed as the published code of this family does, to be measured against.

It computes the same function as the fast path from the same parameters, with none of the fast path's techniques: one
embedding look-up and one encoder pass for each sequence, refiners one by one on a context concatenated with the
knowledge, every padded position projected to the vocabulary, a dense mixture, word counts in Python and NumPy, an
unfused optimiser, losses read every step, and greedy decoding of one example at a time over the whole prefix without
caches. It takes constants, option types and the table of sinusoids from the fast path and no computation, so it stays
as it is when the fast path changes.
"""
