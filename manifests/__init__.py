"""Data at rest: manifests, digests, journal and ledger, storage. No torch, no Ray, no Prefect."""
