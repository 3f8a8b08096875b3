"""What nvpn peers say to each other inside a tunnel: sans-IO, and specified in docs/channel.md."""
