"""One file per step of the audit."""
