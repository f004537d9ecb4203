"""Azure's confidential machines: a paravisor in the guest's most privileged level holds the vTPM, hardware vouches.

The chain of a machine: the processor's report measures the paravisor and carries the hash of its runtime data; the
runtime data names the vTPM's attestation key; that key signs a quote of the registers, which say what was booted.
"""
