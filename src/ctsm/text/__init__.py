"""From raw text to tokens and ids, and back to readable text."""
