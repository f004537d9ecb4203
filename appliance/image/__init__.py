"""The image: what it is made of, how it is built and described. Runs on the builder's machine, never in the guest."""
