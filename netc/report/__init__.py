"""The report stage: what nets, plans and logs look like to a reader."""
