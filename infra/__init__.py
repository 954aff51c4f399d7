"""Deployment files, bundled-model recipes and measured reports."""
