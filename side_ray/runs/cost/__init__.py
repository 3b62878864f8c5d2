"""The cost of an audit before it starts: `sampling` of the networks and the lines of the plan, `search` of the comparisons."""
