"""The running thing, and the tools around it."""
