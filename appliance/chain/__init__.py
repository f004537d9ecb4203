"""The chain: contracts, proofs, wallets, registry, rewards. What is read is proven; what is sent is confirmed."""
