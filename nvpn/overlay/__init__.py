"""The TUN device, one file a platform."""
