"""tokloom's constraints where models already run: transformers, vLLM and llama-cpp-python."""
