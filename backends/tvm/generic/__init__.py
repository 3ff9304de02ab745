"""The generic scheduler: any region, as loops over stages."""
