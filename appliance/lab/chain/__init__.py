"""A whole TON network in one process: real transactions and proofs, one validator, one liteserver.

``devnet`` makes blocks, ``liteserver`` serves them to any client, ``program`` runs both with a control port, and
``adversary`` holds the dishonest servers that clients must refuse.
"""
