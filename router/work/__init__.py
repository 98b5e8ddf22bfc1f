"""What runs units: branches and merges under leases; and what heals or ends those that were lost or are late."""
