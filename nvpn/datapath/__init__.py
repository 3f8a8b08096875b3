"""Moving packets between a TUN device and UDP, behind one seam (``datapath.api``)."""
