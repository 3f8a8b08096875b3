"""What decides: handshakes, cookies, timers. Pure: time and randomness are handed in."""
