"""A laboratory: several hosts on one machine, each with its own daemon, a switch between them, and an etcd cluster.

A lab is a tree of processes below one *supervisor*, the first process of a PID namespace. When the supervisor ends, for
whatever reason, the kernel ends all others, and with them their networks and mounts. Only the lab's directory of files
stays, and is removed by the next command that meets it.

Each host is the same again, one level below: a first process with namespaces of its own (:mod:`sandnet.lab.host_init`).
Killing it is a power failure of that host.
"""
