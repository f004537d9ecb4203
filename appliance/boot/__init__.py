"""A guest start: stages, configuration, clock, posture, keys, model; and the attested status port."""
