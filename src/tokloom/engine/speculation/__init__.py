"""How much is drafted and verified: probabilities, costs, and when a drafter pays for itself.

Knows nothing of how drafts are made.
"""
