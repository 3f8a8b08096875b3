"""How to go on when something fails: retry with backoff, circuit breakers; pure over ``now``."""
