"""The server of one root: its process, its sockets, who may ask; starting, finding, stopping it.

May import `training`, `jobs` and `storage`. `access`, through which every request comes, imports
none of them, because their routes import it.
"""
