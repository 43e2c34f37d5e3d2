"""`ctsm reproduce`: the rows of the paper's tables, trained, evaluated and put beside the printed ones."""
