"""What this service measures, for Prometheus: the families, the collectors of a process, and what redis knows.

In: what parts of the router report as it happens. Out: the text of ``/metrics``. No label holds a key, an id, an owner
or anything else that a client sent.
"""
