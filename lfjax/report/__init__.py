"""Report: pages and tables drawn from what stages wrote."""
