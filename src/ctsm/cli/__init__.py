"""`ctsm VERB`: one small file per verb, without logic of its own."""
