"""The verified OpenAI endpoint and the library under it: proof before prompt, price before pay."""
