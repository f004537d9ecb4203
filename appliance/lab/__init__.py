"""The world on one machine: a chain, machines that prove themselves, an engine; nothing here enters an image."""
