"""The gateway (the protocol calls it proxy): admission of workers and clients, requests between them, payments."""
