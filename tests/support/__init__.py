"""The harness that the tests share; each module says what it offers."""
