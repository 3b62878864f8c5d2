"""Before the first audit: `doctor` says what is wrong with a machine, `kinds` what can be audited, and by what."""
