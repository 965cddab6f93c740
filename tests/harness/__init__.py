"""Real parts for the tests; each fixture starts and stops its own."""
