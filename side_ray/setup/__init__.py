"""Before the first audit: `starter` writes a config, `doctor` says what is wrong with a machine, `kinds` what can be audited."""
