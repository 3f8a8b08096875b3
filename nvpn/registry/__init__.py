"""What a server knows of its clients: who they are, what they lease, who is invited.

The rules are written once, in :mod:`nvpn.registry.registry`, over a small seam
(:mod:`nvpn.registry.store`) behind which a file of our own or an etcd lies.
"""
