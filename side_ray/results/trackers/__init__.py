"""Logging of a finished audit to an experiment tracker: `tracked` says what and when, `clients` speak to each tracker."""
