"""Keys and values of a request: slots with text positions, layer by layer, in RAM or in mapped files.

Knows nothing of attention, of methods or of text: what is kept, and when, a `Keeper` says.
"""
