"""Language models and their vocabularies: how tokloom finds, converts and loads them."""
