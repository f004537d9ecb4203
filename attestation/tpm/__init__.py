"""TPM evidence: quotes by attestation keys that were bound to their endorsement keys by credential activation.

Pure but for :mod:`~attestation.tpm.tools` and :mod:`~attestation.tpm.enrol`, which talk to a TPM and to the authority
that certifies keys. A TPM that the host emulates proves nothing to a stranger: verdicts that rest on one give no
assurance.
"""
