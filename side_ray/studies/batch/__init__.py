"""Many audits as one: `plan` reads which, `run` runs them and writes their summary."""
