"""The context stage: which text of the user's documents goes into the prompt."""
