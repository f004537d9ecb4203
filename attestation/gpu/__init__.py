"""GPUs: what this machine has (NVML); their evidence and its verification come with the confidential image."""
