"""Dialogues: reading them, the prepared dataset on disk, batches and the bundled sample."""
