"""What a machine proves: evidence collected in the guest, verified anywhere."""
