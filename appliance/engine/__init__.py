"""The model server: its environment, its models, its supervisor, and what may reach it."""
