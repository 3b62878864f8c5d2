"""What goes beyond one audit."""
