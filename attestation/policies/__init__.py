"""The parts of policy files: what one may say, and the rules that it becomes. The door is attestation.policy_file."""
