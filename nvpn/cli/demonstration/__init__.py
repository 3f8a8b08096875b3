"""What `nvpn demo` is made of: two hosts in namespaces, their traffic, and how it is told.

Three processes besides the nvpn daemons: the *view* in the user's terminal, which touches
nothing; *alice*, a host that also directs the play; and *bob*, another host. Alice and bob
live in namespaces that exist only as long as they do, so that whatever happens, `kill -9`
included, the kernel itself cleans up.
"""
