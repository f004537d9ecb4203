"""The pure verifier: what a liteserver says, bound to a trust point by hashes and signatures.

Bytes in, values or :class:`~appliance.chain.errors.ProofError` out; no I/O, no clock, no state. The order of trust:
zerostate or key block → :func:`verify_links` → masterchain block → :func:`verify_account` → account state →
:func:`verify_transactions`.
"""

from appliance.chain.proofs.header import BlockHeader, parse_header, prove_header
from appliance.chain.proofs.links import BackwardLink, ForwardLink, ProvenBlock, verify_links
from appliance.chain.proofs.state import ProvenAccount, verify_account, verify_config, verify_shard
from appliance.chain.proofs.transactions import parse_message, parse_transaction, verify_transactions
from appliance.chain.proofs.validators import (
    BlockSignatures,
    Validator,
    ValidatorConfig,
    check_signatures,
    ordinary_message,
    set_hash,
    simplex_message,
)

__all__ = [
    "BackwardLink",
    "BlockHeader",
    "BlockSignatures",
    "ForwardLink",
    "ProvenAccount",
    "ProvenBlock",
    "Validator",
    "ValidatorConfig",
    "check_signatures",
    "ordinary_message",
    "parse_header",
    "parse_message",
    "parse_transaction",
    "prove_header",
    "set_hash",
    "simplex_message",
    "verify_account",
    "verify_config",
    "verify_links",
    "verify_shard",
    "verify_transactions",
]
