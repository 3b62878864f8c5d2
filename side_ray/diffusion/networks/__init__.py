"""diffusers' networks around a model's own: `loading` opens one from its directory, `dit` is DiT's transformer as a model."""
