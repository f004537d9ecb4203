"""The chain: contracts, proofs, wallets, the registry and rewards. What is read is proven; what is sent is confirmed."""
