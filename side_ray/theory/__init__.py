"""The paper's quantities."""
