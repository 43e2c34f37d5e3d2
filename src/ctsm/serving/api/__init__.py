"""The HTTP API: OpenAI-compatible routes and those that tell what the model perceives."""
