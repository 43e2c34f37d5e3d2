"""What is known beyond the dialogues: lexicons, word vectors, inverse document frequencies and inferences."""
