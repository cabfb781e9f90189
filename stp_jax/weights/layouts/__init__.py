"""Tables of rules: the names and forms under which published models store their parameters."""
