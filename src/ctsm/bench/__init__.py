"""`ctsm bench`: this code measured against the plain path of its relatives and against what the machine can do."""
